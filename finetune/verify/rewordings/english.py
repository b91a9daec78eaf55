"""English questions in other words by rules: the question is taken apart, and its parts are put into other sentences.

Every form must read as a person would write it, and ask the same, so that yes means the same, too. A question that no
pattern takes apart gets none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from finetune.verify.rewordings.forms import filled, parts_of

# Parts of a question. VP begins with a bare verb, so that it goes behind `to`; NP goes wherever a noun goes.
ME = r"(?P<me>i|we)"
VP = r"(?P<vp>(?!be\b|not\b|have been\b)[a-z].+)"
NP = r"(?P<np>.+)"
NAMED = r"(?P<np>(?:the|your|my|our|this|these)\b.+)"  # a certain thing: `Could you tell me ...` goes before it
# What is said of a thing at the end of a question: insured, free of charge, on the second floor
STATE = (
    r"(?P<state>(?:(?:always|also|already|still|really|fully) )?(?:\w+(?:ed|able|ible|ful|ous|less)|free|open|closed"
    r"|broken|stolen|hidden|lost|ready|legal|compulsory|mandatory|necessary|optional|valid|full|empty|online|extra|safe"
    r"|part of the price)"
    r"(?: (?:in|for|on|by|from|with|during|after|before|at|of|to|against|near|under|without|if|when)\b.+)?)"
)
THING = r"(?P<np>(?:(?:the|a|an|my|your|our|this|these|all)\b (?:\S+ ){0,3}?|)\S+?)"
HAVE = r"(?:have|offer|sell|provide|rent|rent out|hire|hire out|stock|carry|supply)"
# What is a burden: nobody looks for a fee
BURDEN = (
    r"(?:an? |any |extra |additional )*(?:\w+ )?(?:fee|charge|limit|fine|penalty|minimum|maximum|deadline|cost|tax"
    r"|restriction|problem|difference|surcharge|risk|reason|rule|dress code|age)s?\b"
)
MEASURES = {
    "old": "age", "fast": "speed", "quick": "speed", "big": "size", "large": "size", "heavy": "weight",
    "high": "height", "tall": "height", "long": "length", "deep": "depth", "wide": "width", "hot": "temperature",
    "strong": "strength", "expensive": "price",
}  # fmt: skip
COST = r"(?:how much (?:is|are|was)|(?:what is|what's|what are) the (?:price|cost|fee|charge)s? (?:of|for))"

# (what a question is, what it may be in other words). {name} is a part of it, {name_} that part as it is typed into a
# search box, without articles. The first pattern that fits is taken, and the most specific come first.
FORMS: list[tuple[str, ...]] = [
    (
        r"how old (?:must|do|should) (?:i|we|you|one) (?:have to )?be to (?P<vp>.+)",
        "From what age can one {vp}?",
        "Is there a minimum age if one wants to {vp}?",
        "minimum age to {vp_}?",
    ),
    (
        rf"how (?P<measure>{'|'.join(MEASURES)}) (?:is|are) {NP}",
        "Can you tell me the {measure} of {np}?",
        "{np_} {measure}?",
        "I need to know the {measure} of {np}.",
    ),
    (
        rf"(?:how much|what) (?:does|do|will|would|is) it (?:cost )?(?:me |us )?to {VP}",
        "What do you charge if I {vp}?",
        "I'd like to {vp}. What would that come to?",
        "{vp_} price?",
    ),
    (
        rf"how much do (?:i|we) (?:have to )?pay (?:for {NP}|to {VP})",
        "What do you charge for {np}?",
        "What does it cost to {vp}?",
        "price {np_}?",
        "{vp_} price?",
    ),
    (
        rf"(?:how much|what) (?:does|do|will|would) {NP} cost(?P<tail>(?: .+)?)",
        "What would I have to pay for {np}{tail}?",
        "What do you charge for {np}{tail}?",
        "{np_}{tail} price?",
    ),
    (rf"{COST} {NP}", "What would I have to pay for {np}?", "What do you charge for {np}?", "{np_} price?"),
    (
        r"how long (?:does|do|will|would) it (?:usually |normally )?take (?P<end>(?:to|until|till|before) .+)",
        "How much time should I allow {end}?",
        "{end_}, how long?",
    ),
    (
        rf"how long (?:does|do|will|would) {NP} take",
        "How much time should I allow for {np}?",
        "duration of {np_}?",
        "I'm planning my day. How many hours or days go into {np}?",
    ),
    (rf"how long can (?:i|we) {VP}", "What is the longest I can {vp}?", "I'd like to {vp}. For how much time may I?"),
    (r"how long (?P<rest>(?:is|are|do|does|will|would|must|should) .+)", "For how much time {rest}?"),
    (r"how often (?P<rest>.+)", "At what intervals {rest}?"),
    (
        rf"how far (?:is|are) {NP} from (?P<end>.+)",
        "What's the distance between {np} and {end}?",
        "{np_} {end_} distance?",
    ),
    (
        r"how many (?P<np>.+?) (?:do|does) (?P<who>.+?) have",
        "What number of {np} does one find with {who}?",
        "number of {np_} {who_}?",
    ),
    (
        rf"how many (?P<np>.+?) (?P<can>can|may|must|should) {ME} {VP}",
        "What is the number of {np} that I {can}{vp}?",
        "number of {np_} to {vp_}?",
    ),
    (
        r"how many (?P<np>.+?) are (?:there )?(?P<end>.+)",
        "What is the number of {np} {end}?",
        "number of {np_} {end_}?",
    ),
    (
        rf"how (?:do|should|would) {ME} {VP}|how to (?P<vp2>.+)",
        "I'm trying to {vp}. Where do I start?",
        "What's the procedure if I want to {vp}?",
        "how to {vp_}?",
        "Could someone walk me through it? I need to {vp}.",
    ),
    (
        rf"how (?:can|could|may) {ME} {VP}",
        "I'd like to {vp}. What are my options?",
        "In which ways is it possible to {vp}?",
        "how to {vp_}?",
    ),
    (rf"how do you {VP}", "Could you explain how you {vp}?", "I'd like to understand how you {vp}."),
    (
        rf"where (?:can|do|could|should|may|must|would) {ME} {VP}",
        "What's the right place to {vp}?",
        "I don't know where to {vp}. Can you help?",
        "where to {vp_}?",
    ),
    (r"(?:where is|where's|where are) (?P<np>my .+)", "I can't find {np}. Can you help?", "{np_}, where?"),
    (
        rf"(?:where is|where's|where are) {NP}",
        "I can't find {np}. Which way is it?",
        "{np_} location?",
        "Can you point me to {np}?",
    ),
    (
        rf"when (?:can|may|could) {ME} {VP}",
        "How long will it be until I can {vp}?",
        "earliest time to {vp_}?",
        "I'd like to {vp}. How soon is that possible?",
    ),
    (rf"when (?:do|will|should|must) {ME} (?P<vp>.+)", "At what point do I {vp}?", "{vp_} when?"),
    (
        rf"when do you {VP}",
        "On which days, or at which hours, do you {vp}?",
        "{vp_} when?",
        "Is there a fixed time when you {vp}?",
    ),
    (rf"when (?:is|are) {NP} open", "During which hours can one come to {np}?", "{np_} hours?"),
    (
        r"(?:when do you open|when are you open|what are (?:the|your) (?:opening|business) hours)",
        "During which hours can one come by?",
        "From when until when are you there?",
    ),
    (r"when (?P<rest>(?:is|are|does|do|will) .+)", "On which day, or at what hour, {rest}?"),
    (
        rf"(?:do|must) {ME} (?:have|need) to {VP}|(?:must|should) (?P<me2>i|we) (?P<vp2>.+)"
        rf"|is it (?:necessary|required|mandatory|compulsory) to (?P<vp3>.+)",
        "Am I obliged to {vp}?",
        "Someone said I have to {vp}. Is that right?",
        "{vp_}, compulsory?",
    ),
    (rf"(?:do|will|would) {ME} get (?P<np>an? .+)", "Can I expect {np}?"),
    (
        rf"(?:do|will) {ME} need (?P<np>an? .+|any .+|my .+)",
        "Will I be asked for {np}?",
        "Someone said I need {np}. Is that right?",
        "{np_} compulsory?",
    ),
    (
        rf"(?:can|could|may) {ME} get (?P<np>an? [^,]+)",
        "I'm in need of {np}. Would you be able to arrange that?",
        "Would {np} be possible?",
        "{np_} possible?",
    ),
    (
        rf"(?:can|could|may) {ME} {VP}|(?:am i|are we) (?:allowed|able) to (?P<vp2>.+)"
        rf"|is it (?:possible|allowed|permitted|okay|ok) to (?P<vp3>.+)"
        r"|is it (?:possible|allowed|okay|ok|all right|fine) if (?P<me2>i|we) (?P<vp4>.+)",
        "I was hoping to {vp}. Would that be all right?",
        "Do your rules let people like me {vp}?",
        "{vp_} possible?",
    ),
    (
        r"is there (?:a|any) (?:way|possibility|chance) to (?P<vp>.+)",
        "I was hoping to {vp}. Can it be done?",
        "{vp_} possible?",
    ),
    (rf"(?:is|are) there (?P<np>{BURDEN}.*)", "Should I expect {np}?", "{np_}?"),
    (rf"(?:is|are) there {NP}", "I'm looking for {np}. Anything like that at your place?", "{np_} available?"),
    (
        rf"do you {HAVE} {NP}",
        "I'm looking for {np}. Can I get that from you?",
        "Would {np} be available?",
        "{np_} available?",
    ),
    (rf"do you {VP}", "Is it part of your service to {vp}?", "Could I count on you to {vp}?"),
    (
        rf"(?:can|could|will|would) you {VP}",
        "I'd need someone to {vp}. Is that something you do?",
        "Are you able to {vp}?",
        "{vp_} possible?",
    ),
    (
        rf"what happens (?:if|when|once) {NP}",
        "Let's say {np}. What are the consequences?",
        "Suppose {np}. How does it go on from there?",
        "What if {np}?",
    ),
    (
        rf"what (?:should|can|do|must) (?:i|we) do (?:if|when) {NP}",
        "Help, {np}! What now?",
        "Suppose {np}. Who or what helps me then?",
        "{np}, what now?",
    ),
    (
        rf"(?:which|what) (?P<np>\S+(?: \S+)?) (?:(?P<can>can|should|must|may|could) |do ){ME} {VP}",
        "Could you name the {np} I {can}{vp}?",
    ),
    (
        rf"(?:which|what) (?P<np>\S+(?: \S+)?) do you {VP}",
        "Could you name the {np} you {vp}?",
        "I'd like to hear about the {np} you {vp}. Which would that be?",
    ),
    (rf"what (?P<can>can|should|must|may) {ME} {VP}", "Could you list what I {can}{vp}?", "what to {vp_}?"),
    (rf"what do {ME} {VP}", "Could you list what I {vp}?"),
    (
        r"(?:which|what) (?P<np>(?!(?:times?|days?|date|is|are|was|does|do|can)\b)\S+(?: \S+)?)"
        r" (?P<be>is|are) (?P<rest>.+)",
        "Could you tell me which {np} {be} {rest}?",
    ),
    (
        rf"(?:what's|what is|what are|what was) {NAMED}",
        "Could you tell me {np}?",
        "{np_}?",
        "I still have to find out {np}. Can you help?",
    ),
    (
        r"(?:what's|what is|what are) (?P<np>(?:an? )?[\w-]+(?: [\w-]+)?)",
        "I keep reading about {np}. What does that mean?",
        "Can you explain {np} to me?",
        "{np_} meaning?",
    ),
    (
        rf"(?P<be>is|are) {THING} {STATE}",
        "I take it that {np} {be} {state}. Is that right?",
        "I'm not sure whether {np} {be} {state}. Can you tell me?",
        "{np_} {state_}?",
    ),
    (r"who (?:is|are) (?P<np>(?:the|your|my|our)\b.+)", "Could you tell me the name of {np}?", "{np_} name?"),
    (rf"who (?:can|do|should|must) {ME} {VP}", "Which person is the right one for me to {vp}?", "who to {vp_}?"),
    (
        r"who (?P<vp>(?!is|are|can|do|does|will|would|should|was|were)\S+ .+)",
        "Whose job is this? I mean, which person {vp}?",
        "Is there a person that {vp}, and what is the name?",
    ),
    (r"who (?P<vp>will .+)", "Could you name the person that {vp}?"),
    (r"(?:do|does) (?!you\b|i\b|we\b)(?P<rest>.+)", "Would {rest}?", "{rest_}?"),
    (r"why (?P<rest>.+)", "For what reason {rest}?", "What is behind it? I mean, why {rest}?"),
]
# More than one question in one, or a sentence before it: no part of that can be put elsewhere.
SEVERAL = re.compile(
    r"[.?!;:]\s|,|\b(?:and|or|but) (?:how|what|when|where|which|who|why|is|are|do|does|can|could|must|if)\b", re.I
)
ARTICLES = re.compile(r"\b(?:an?|the|my|your|our|some|any|there)\b\s*", re.I)
US = (("I'd", "we'd"), ("I'm", "we're"), ("I was", "we were"), ("am I", "are we"), ("for me", "for us"),
      ("helps me", "helps us"), ("like me", "like us"), ("I", "we"))  # fmt: skip


def rebuilt(bare: str) -> Iterator[str]:
    """A question without its question mark in other sentences."""
    bare = re.sub(r"^(?:hi|hello|please|excuse me)\W+", "", bare, flags=re.I)
    if SEVERAL.search(bare):
        return
    for pattern, *forms in FORMS:
        found = re.fullmatch(pattern, bare, re.IGNORECASE)
        if found:
            parts = _parts(found)
            yield from filled(_of_us(forms, parts), parts)
            return


def _parts(found: re.Match[str]) -> dict[str, str]:
    """The parts of a question by name, and each without articles."""
    parts = {"can": ""} | parts_of(found)
    if "measure" in parts:
        parts["measure"] = MEASURES[parts["measure"].lower()]
    if "be" in parts:
        parts["be"] = parts["be"].lower()
    if "np" in parts:
        parts["np"] = re.sub(r"^any (\w+s\b)", r"\1", parts["np"], flags=re.I)
    parts |= {f"{name}_": ARTICLES.sub("", value) for name, value in parts.items()}
    return {name: f"{value} " if name == "can" and value else value for name, value in parts.items()}


def _of_us(forms: Sequence[str], parts: dict[str, str]) -> Iterator[str]:
    """The forms in the first person that the question has."""
    for form in forms:
        if parts.get("me", "").lower() == "we":
            for one, many in US:
                form = re.sub(rf"\b{one}\b", many, form)
            form = form[:1].upper() + form[1:] if form[:2] == "we" else form
        yield form
