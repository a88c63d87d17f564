"""Sensor on deals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from crm_provider.client.validation import several
from crm_provider.observability.links import CrmDealLink
from crm_provider.sensors.base import CrmSensor
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import naming_task
from crm_provider.values.suggest import check_choice
from crm_provider.waiting.conditions import DealInStage, Until

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.tasks.arguments import CrmSensorArguments, Templated


class CrmDealStageSensor(CrmSensor):
    """Waits until a deal is in a stage, or in one of several, or has left them.

    XCom: ``{"id": <deal id>, "stage_id": ...}``.

    :param deal_id: id of the deal
    :param stage_ids: id of the stage, or several
    :param until: ``in`` one of them, or ``left`` all of them
    """

    template_fields: Sequence[str] = ("deal_id", "stage_ids", *CrmSensor.template_fields)
    operator_extra_links = (CrmDealLink(),)
    policy_name = "CrmDealStageSensor"

    def __init__(
        self,
        *,
        deal_id: Templated[str],
        stage_ids: Templated[str | Sequence[str]],
        until: Until = "in",
        **kwargs: Unpack[CrmSensorArguments],
    ) -> None:
        super().__init__(**kwargs)
        with naming_task(type(self), self.task_id):
            check_choice("until", until, get_args(Until))
        self.deal_id = rendered(deal_id)
        self.stage_ids = rendered(stage_ids)
        self.until = until

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            deal_id: Templated[str] = ...,
            stage_ids: Templated[str | Sequence[str]] = ...,
            until: Until = ...,
            **kwargs: Unpack[CrmSensorArguments],
        ) -> OperatorPartial: ...

    def condition(self) -> DealInStage:
        return DealInStage(deal_id=self.deal_id, stage_ids=several(self.stage_ids), until=self.until)
