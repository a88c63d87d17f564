"""Converts dates and times to ISO 8601 and phone numbers to E.164 (``+5531999999999``), the formats of the CRM.

Pure functions, as in :mod:`crm_provider.load.mapping.converters`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from crm_provider.load.mapping.converters import Conversion, digits, only_text
from crm_provider.values.json_values import ConversionError, utc_text
from crm_provider.values.suggest import hint

_ISO = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](?P<time>\d\d:\d\d(?::\d\d)?)(?:[.,](?P<fraction>\d{1,9}))?"
    r" ?(?P<zone>[Zz]|UTC|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
"""ISO 8601 as databases and programs write it, BigQuery with ``UTC``. Python 3.10 parses less of it than 3.11."""

_FIX = "correct it in the source, or set the option format of the mapping"
_USE_12_HOURS = "correct it, or write %I in place of %H in the option format of the mapping"


def day(*, format: str | None = None) -> Conversion:  # noqa: A002 - the option's name
    """A date as ``2024-01-31``. A time of day is dropped, without a change of time zone.

    :param format: how a text is written, as for ``datetime.strptime``; by default ISO 8601
    :raises ValueError: if the format does not hold day, month and year
    """
    read = _reader(format, "not a valid date")

    def convert(value: Any) -> str:
        if isinstance(value, str):
            value = read(value)
        if isinstance(value, datetime):
            value = value.date()
        if not isinstance(value, date):
            raise ConversionError("not a valid date", _FIX)
        return value.isoformat()

    return convert


def moment(*, format: str | None = None, zone: str | None = None) -> Conversion:  # noqa: A002 - the option's name
    """A time as ``2024-01-31T12:00:00Z``, in UTC. A date means its midnight.

    :param format: how a text is written, as for ``datetime.strptime``; by default ISO 8601
    :param zone: the time zone of times that have none; without it such a time is refused. A time that its clocks show
        twice is the first one, and one that they skip counts as if they had not been changed yet
    :raises ValueError: if the format does not hold a whole date or is ambiguous, or the zone is unknown
    """
    _check_clock(format or "")
    read, default_zone = _reader(format, "not a valid date and time"), None if zone is None else _zone(zone)
    ignores_half = {"H", "p"} <= _codes(format or "")  # Python ignores %p beside %H

    def convert(value: Any) -> str:
        if isinstance(value, str):
            written, value = value, read(value)
            if ignores_half and value.strftime("%p").casefold() not in written.casefold():
                raise ConversionError("an hour that contradicts AM or PM", _USE_12_HOURS)
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - it gets the zone below
        if not isinstance(value, datetime):
            raise ConversionError("not a valid date and time", _FIX)
        if value.tzinfo is None:
            if default_zone is None:
                raise ConversionError(
                    "a time without a time zone", 'name it with timezone, such as "UTC" or "America/Sao_Paulo"'
                )
            value = value.replace(tzinfo=default_zone)
        return utc_text(value)

    return convert


def _reader(form: str | None, kind: str) -> Callable[[str], datetime]:
    if form is not None:
        _check_format(form)

    def read(written: str) -> datetime:
        try:
            return _from_iso(written) if form is None else datetime.strptime(written, form)  # noqa: DTZ007
        except ValueError:
            raise ConversionError(kind, _FIX) from None

    return read


def _from_iso(written: str) -> datetime:
    parts = _ISO.fullmatch(written)
    if parts is None:
        raise ValueError
    clock, fraction, zone = parts["time"] or "00:00", parts["fraction"], parts["zone"]
    found = datetime.fromisoformat(f"{parts['day']}T{clock}")
    if fraction:
        found = found.replace(microsecond=int(fraction[:6].ljust(6, "0")))
    return found if zone is None else found.replace(tzinfo=_offset(zone))


def _offset(zone: str) -> timezone:
    if zone in ("Z", "z", "UTC"):
        return timezone.utc
    hours, minutes = int(zone[1:3]), int(zone[3:].removeprefix(":") or "0")
    if minutes > 59:
        raise ValueError
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(-ahead if zone[0] == "-" else ahead)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not in the database; a folder of it; no name of a file
        raise ValueError(f"timezone {name!r} is not known; give a name such as 'UTC' or 'America/Sao_Paulo'") from None


def _check_format(form: str) -> None:
    """Refuse a format that lacks a part of the date: without a year, each row would be read as 1900."""
    sample = datetime(2023, 11, 22, 13, 45, 58, tzinfo=timezone.utc)
    written = sample.strftime(form)
    for other, what in (({"year": 2019}, "year"), ({"month": 7}, "month"), ({"day": 3}, "day")):
        if sample.replace(**other).strftime(form) == written:  # type: ignore[arg-type]
            raise ValueError(f"format {form!r} does not hold the {what}; write it like '%d/%m/%Y'")
    try:
        same = datetime.strptime(written, form).date() == sample.date()  # noqa: DTZ007
    except ValueError:
        same = False
    if not same:
        raise ValueError(f"format {form!r} cannot be read back; use the codes of Python's strptime, like '%d/%m/%Y'")


def _check_clock(form: str) -> None:
    """Refuse formats with which Python would read another time than the text shows."""
    codes = _codes(form)
    if "Z" in codes:
        raise ValueError(
            f"format {form!r}: Python drops the zone that %Z reads; use %z for an offset, or write the zone as it "
            "stands in the texts (such as UTC) and name it with timezone"
        )
    if "I" in codes and "p" not in codes:
        raise ValueError(f"format {form!r}: the hour %I counts to 12 and needs %p (AM or PM); use %H for 24 hours")


def _codes(form: str) -> set[str]:
    return set(re.findall("%(.)", form))


INSTALL = "pip install 'airflow-provider-crm[phone]'"


def phone(*, region: str | None = None) -> Conversion:
    """A phone number in E.164.

    The number must be *valid* (in an assigned range), not only *possible* (of a possible length): a local number
    without its area code is possible, and the CRM would get an unused number or that of another person.

    :param region: country of numbers without ``+``, two letters (ISO 3166): ``BR``
    :raises ValueError: if the library is missing or the region is unknown
    """
    try:
        import phonenumbers as library
    except ImportError:
        raise ValueError(f"type 'phone' needs the library phonenumbers: {INSTALL}") from None
    if region is not None:
        region = _known(region, library.SUPPORTED_REGIONS)

    def convert(value: Any) -> str:
        written = only_text(value) if isinstance(value, str) else _whole_digits(value)
        try:
            found = library.parse(written, region)
        except library.NumberParseException as wrong:
            if wrong.error_type == library.NumberParseException.INVALID_COUNTRY_CODE and "+" not in written:
                raise ConversionError(
                    "a phone number without country code", "write it with +, or name the region"
                ) from None
            raise ConversionError(*_NO_PHONE) from None
        if not library.is_valid_number(found):
            raise ConversionError("not a valid phone number", "correct it: country code, area code and number must fit")
        if found.extension:
            raise ConversionError(
                "a phone number with an extension", "E.164 has no place for it; remove it in the source"
            )
        if _LETTER.search(_URL.sub(r"\1", written)):
            raise ConversionError("a phone number with letters", "leave only the number: they may become digits of it")
        return str(library.format_number(found, library.PhoneNumberFormat.E164))

    return convert


_URL = re.compile(r"\Atel:([^;]*).*", re.IGNORECASE | re.DOTALL)
"""A phone number as a URL (RFC 3966), which may have parameters."""

_LETTER = re.compile(r"\d.*[^\W\d_]", re.DOTALL)
"""A letter after a digit; words before the number are ignored."""

_NO_PHONE = ("not a phone number", "correct it: one number, with its area code")


def _whole_digits(value: Any) -> str:
    """The digits of a number without a fraction: the zeros of ``30123456.00`` would become digits of another number."""
    whole, _, fraction = digits(value).partition(".")
    if fraction.strip("0"):
        raise ConversionError(*_NO_PHONE)
    return whole


def _known(region: str, regions: set[str]) -> str:
    code = region.strip().upper()
    if code in regions:
        return code
    fix = hint("GB" if code == "UK" else code, sorted(regions), "give")
    raise ValueError(f"region {region!r} is unknown; {fix} the two letters of ISO 3166, such as 'BR' or 'GB'")
