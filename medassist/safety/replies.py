"""What is shown: the standing line, the reply to an emergency, and the line that sends to a professional."""

from __future__ import annotations

import functools

from medassist.safety.decision import Escalation
from medassist.spelling import fold, split_words

STANDING_NOTICE = (
    "For education only: not medical advice, and not a medical device. Do not enter anyone's personal data. "
    "In an emergency call 112, 911 (US) or 999 (UK)."
)


def render_escalation(escalation: Escalation) -> str:
    """The reply as Markdown: title, what to do in order, numbers; for a note one line."""
    if escalation.kind == "note":
        return f"> **If this is happening now:** {escalation.note}"
    lines = [f"**{escalation.title}.**", ""]
    lines += [f"{at}. {action}" for at, action in enumerate(escalation.actions, 1)]
    lines += [
        "",
        "**Numbers:** " + " · ".join(f"{label}: **{number}**" for label, number in escalation.numbers),
    ]
    lines += ["", "This is an automatic first-aid reply to words in your message. It is not a diagnosis."]
    return "\n".join(lines)


_PROFESSIONAL = (
    (
        "A dose depends on the person: check it with a pharmacist or doctor, and with the package leaflet.",
        "dose,doses,dosage,dosages,dosing,overdose,mg,milligrams,mcg,how many pills,how many tablets,how much should,"
        "how much can,how much ibuprofen,how much paracetamol,how much tylenol,how much insulin,how often should,"
        "how often can,can i take,can i give,should i take,should i give,safe to take,safe to give,safe to mix,"
        "safe to combine,take together,mix with,max daily,maximum daily,dosis,puedo tomar,cuanto debo,"
        "puis je prendre,combien de comprimes,posologie,darf ich nehmen,wie viele tabletten,dosierung",
    ),
    (
        "Do not stop or change a prescribed medicine on your own: ask the doctor who prescribed it or a pharmacist.",
        "stop taking,stop my,quit taking,come off,coming off,get off my,taper,wean off,skip my,skip a dose,"
        "stop using,stop the medication,stop medication,switch from,increase my,double my,reduce my,lower my dose,"
        "change my medication,missed a dose,without my medication,dejar de tomar,arreter de prendre,arreter mon,"
        "absetzen,aufhoren zu nehmen",
    ),
    (
        "Only an examination can tell what this is: please see a doctor or another health professional.",
        "do i have,does he have,does she have,do you think i have,could i have,might i have,have i got,diagnose me,"
        "diagnose,my diagnosis,is it cancer,is this cancer,could it be,could this be,is it serious,is this serious,"
        "what is wrong with,whats wrong with,what do i have,should i be worried,should i worry,should i see a doctor,"
        "is it normal,is this normal,what could this be,what could it be,am i pregnant,tengo cancer,que tengo,"
        "es grave,es normal,ai je,est ce grave,est ce normal,habe ich,ist das gefahrlich,ist das normal,what might it be",
    ),
)


@functools.cache
def _professional_phrases() -> dict[str, str]:
    return {f" {phrase} ": line for line, listed in reversed(_PROFESSIONAL) for phrase in listed.split(",")}


def professional_line(text: str) -> str | None:
    """The sentence that sends the person to a professional: for doses, stopping a medicine, diagnoses."""
    words = " " + " ".join(w for w in split_words(fold(text[:4000])) if w not in ".!?;:,\n") + " "
    for phrase, line in _professional_phrases().items():
        if phrase in words:
            return line
    return None
