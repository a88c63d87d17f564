"""Phone numbers in E.164, the form that the CRM takes: ``+5531999999999``."""

from __future__ import annotations

from typing import Any

from crm_provider.load.numerals import digits
from crm_provider.load.unfit import Conversion, Unfit
from crm_provider.values.suggest import hint

INSTALL = "pip install 'airflow-provider-crm[phone]'"


def phone(*, region: str | None = None) -> Conversion:
    """A phone number in E.164.

    The number must be *valid* (in a range that is given out), not only *possible* (of a possible length): a local
    number without its area code is possible, and the CRM would get the number of nobody or of someone else.

    :param region: country of numbers without ``+``, two letters (ISO 3166): ``BR``
    :raises ValueError: if the library is missing or the region is not known
    """
    try:
        import phonenumbers as library
    except ImportError:
        raise ValueError(f"type 'phone' needs the library phonenumbers: {INSTALL}") from None
    if region is not None:
        region = _known(region, library.SUPPORTED_REGIONS)

    def convert(value: Any) -> str:
        written = value if isinstance(value, str) else digits(value)
        try:
            found = library.parse(written, region)
        except library.NumberParseException as wrong:
            if wrong.error_type == library.NumberParseException.INVALID_COUNTRY_CODE and "+" not in written:
                raise Unfit("a phone number without country code", "write it with +, or name the region") from None
            raise Unfit("no phone number", "correct it: one number, with its area code") from None
        if not library.is_valid_number(found):
            raise Unfit("no valid phone number", "correct it: country code, area code and number must fit")
        if found.extension:
            raise Unfit("a phone number with an extension", "E.164 has no place for it; remove it in the source")
        return str(library.format_number(found, library.PhoneNumberFormat.E164))

    return convert


def _known(region: str, regions: set[str]) -> str:
    code = region.strip().upper()
    if code in regions:
        return code
    fix = hint("GB" if code == "UK" else code, sorted(regions), "give")
    raise ValueError(f"region {region!r} is unknown; {fix} the two letters of ISO 3166, such as 'BR' or 'GB'")
