"""Operators on deals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from crm_provider._compat import Context
from crm_provider.observability.links import CrmContactLink, CrmDealLink
from crm_provider.operators.base import CrmOperator, run_start
from crm_provider.tasks.arguments import rendered

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.tasks.arguments import CrmArguments, Templated


class CrmCreateDealOperator(CrmOperator):
    """Create a deal for a contact. By default the task is skipped if the contact already has a deal.

    A retry first looks for the deal, because an earlier try may have created it; the outcome is then ``found``. The API
    has no search, so this reads all deals of the account, 10 per call.

    XCom: ``{"id": <deal id>, "contact_id": ..., "stage_id": ..., "outcome": "created" | "found"}``.

    :param contact_id: id of the contact, as in the XCom of ``CrmUpsertContactOperator``
    :param pipeline_id: id of the pipeline
    :param stage_id: id of the stage in this pipeline
    :param attributes: ``pb_name``, ``pb_amount`` (text with exact digits), ...
    """

    template_fields: Sequence[str] = (
        "contact_id",
        "pipeline_id",
        "stage_id",
        "attributes",
        *CrmOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"attributes": "json"}
    operator_extra_links = (CrmContactLink(), CrmDealLink())
    policy_name = "CrmCreateDealOperator"

    def __init__(
        self,
        *,
        contact_id: Templated[str],
        pipeline_id: Templated[str],
        stage_id: Templated[str],
        attributes: Templated[Mapping[str, Any]] | None = None,
        **kwargs: Unpack[CrmArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.contact_id = rendered(contact_id)
        self.pipeline_id = rendered(pipeline_id)
        self.stage_id = rendered(stage_id)
        self.attributes = rendered(attributes)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            contact_id: Templated[str] = ...,
            pipeline_id: Templated[str] = ...,
            stage_id: Templated[str] = ...,
            attributes: Templated[Mapping[str, Any]] | None = ...,
            **kwargs: Unpack[CrmArguments],
        ) -> OperatorPartial: ...

    def call(self, context: Context) -> dict[str, Any]:
        deal = self._earlier(context) if context["ti"].try_number > 1 else None
        outcome = "found" if deal else "created"
        if deal is None:
            deal = self.hook.create_deal(
                contact_id=self.contact_id,
                pipeline_id=self.pipeline_id,
                stage_id=self.stage_id,
                attributes=self.attributes,
            )
        self.log.info("Deal %s of contact %s %s.", deal["id"], self.contact_id, outcome)
        ids = {"id": deal["id"], "contact_id": self.contact_id, "stage_id": self.stage_id}
        return {**_texts(ids), "outcome": outcome}

    def _earlier(self, context: Context) -> dict[str, Any] | None:
        """The deal that an earlier try of this task created."""
        return self.hook.get_conn().find_own_deal(
            self.contact_id,
            self.pipeline_id,
            stage_id=self.stage_id,
            attributes=self.attributes,
            since=lambda: run_start(context),
        )


class CrmMoveDealStageOperator(CrmOperator):
    """Move a deal to another stage of its pipeline.

    XCom: ``{"id": <deal id>, "stage_id": ..., "outcome": "moved"}``.

    :param deal_id: id of the deal
    :param stage_id: id of the new stage
    """

    template_fields: Sequence[str] = ("deal_id", "stage_id", *CrmOperator.template_fields)
    operator_extra_links = (CrmDealLink(),)
    policy_name = "CrmMoveDealStageOperator"

    def __init__(self, *, deal_id: Templated[str], stage_id: Templated[str], **kwargs: Unpack[CrmArguments]) -> None:
        super().__init__(**kwargs)
        self.deal_id = rendered(deal_id)
        self.stage_id = rendered(stage_id)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            deal_id: Templated[str] = ...,
            stage_id: Templated[str] = ...,
            **kwargs: Unpack[CrmArguments],
        ) -> OperatorPartial: ...

    def call(self, context: Context) -> dict[str, Any]:
        self.hook.move_deal(self.deal_id, stage_id=self.stage_id)
        self.log.info("Deal %s moved to stage %s.", self.deal_id, self.stage_id)
        return {**_texts({"id": self.deal_id, "stage_id": self.stage_id}), "outcome": "moved"}


def _texts(ids: Mapping[str, Any]) -> dict[str, str]:
    """Ids for the XCom: each may have been given as ``uuid.UUID``."""
    return {name: str(value) for name, value in ids.items()}
