"""Event reports of workitems (PS3.4 CC.2.4, PS3.18 11.13): what they hold, and how they are noted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from plugin.worklist.elements import Attributes, element, elements, items, tag, text
from plugin.worklist.rules import CANCELED
from plugin.worklist.subscriptions import WORKLIST
from plugin.worklist.tables import Event

UPS_EVENT = "1.2.840.10008.5.1.4.34.6.4"
# Event Type IDs of PS3.4 table CC.2.4-1.
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = 1, 2, 3, 4, 5

_OF_CANCEL_REQUEST = (
    "ReasonForCancellation", "ProcedureStepDiscontinuationReasonCodeSequence", "ContactURI", "ContactDisplayName",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """One report. uid: of the workitem. receiver: the only application that it is for; "" for every subscriber."""

    uid: str
    kind: int
    body: Attributes
    receiver: str = ""

    def message(self, number: int) -> Attributes:
        """As it is sent: with the command's elements (PS3.7 10.1.1). number: Message ID (0000,0110)."""
        command = {
            "00000002": {"vr": "UI", "Value": [UPS_EVENT]},
            "00000110": {"vr": "US", "Value": [number % 0x10000]},
            "00001000": {"vr": "UI", "Value": [self.uid]},
            "00001002": {"vr": "US", "Value": [self.kind]},
        }
        return command | self.body

    def note(self, connection: Connection, now: float) -> None:
        """In the transaction of what it reports."""
        connection.execute(
            insert(Event).values(uid=self.uid, kind=self.kind, body=self.body, receiver=self.receiver, at=now)
        )


def state_report(uid: str, attributes: Mapping[str, Any], receiver: str = "") -> Report:
    """Its state, and whether its input is ready; of a canceled one the reason."""
    state = text(attributes, "ProcedureStepState")
    body = elements(ProcedureStepState=state, InputReadinessState=text(attributes, "InputReadinessState"))
    if state == CANCELED:
        for progress in items(attributes, "ProcedureStepProgressInformationSequence"):
            for keyword in ("ReasonForCancellation", "ProcedureStepDiscontinuationReasonCodeSequence"):
                if tag(keyword) in progress:
                    body[tag(keyword)] = progress[tag(keyword)]
    return Report(uid, STATE_REPORT, body, receiver)


def progress_report(uid: str, attributes: Mapping[str, Any]) -> Report:
    here = items(attributes, "ProcedureStepProgressInformationSequence")
    return Report(uid, PROGRESS_REPORT, element("ProcedureStepProgressInformationSequence", *here))


def cancel_requested(uid: str, requester: str, reasons: Mapping[str, Any]) -> Report:
    """To whoever performs it. requester: who asks, as far as that was said."""
    body = elements(RequestingAE=requester)
    return Report(
        uid, CANCEL_REQUESTED, body | {tag(k): reasons[tag(k)] for k in _OF_CANCEL_REQUEST if tag(k) in reasons}
    )


def assigned(uid: str, attributes: Mapping[str, Any]) -> Report:
    """For whom it is meant: station and human performers."""
    body: Attributes = {}
    station = tag("ScheduledStationNameCodeSequence")
    if attributes.get(station, {}).get("Value"):
        body[station] = attributes[station]
    for performer in items(attributes, "ScheduledHumanPerformersSequence"):
        for keyword in ("HumanPerformerCodeSequence", "HumanPerformerOrganization"):
            if tag(keyword) in performer:
                body[tag(keyword)] = performer[tag(keyword)]
    return Report(uid, ASSIGNED, body)


def restarted(receiver: str) -> Report:
    """We were away; nothing of the worklist or of the subscriptions was lost."""
    body = elements(
        SCPStatus="RESTARTED", SubscriptionListStatus="WARM START", UnifiedProcedureStepListStatus="WARM START"
    )
    return Report(WORKLIST, SCP_STATUS_CHANGE, body, receiver)
