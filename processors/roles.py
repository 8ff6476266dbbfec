"""Roles by what is said: which speaker of a call is the agent and which the customer, where no channel tells.

Each turn adds evidence for its speaker: the log-odds, agent against customer, of the phrases in it. What is known of a
call's speakers together gives the probability of each role: one agent and one customer are likelier than two of a kind.

A changer must know: the phrases are generic on purpose, nothing of them is about one company's goods, and their
weights are fitted by training/train_roles.py (see docs/roles.md). A role that is not sure enough stays unknown.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Final, Self

from schemas.events import Role

_THING: Final = (
    "(?:(?:full |first |last |phone |telephone |mobile |account |order |card |policy |reference |zip |post |e ?mail "
    "|home |mailing |billing |shipping |bank |credit |debit |employee |member )*"
    "(?:number|account|order|card|address|birth|code|policy|booking|reservation|payment|balance|bill|invoice|email"
    "|subscription|refund|password|delivery|package|statement|appointment|claim|insurance|phone|date of birth))"
)

PHRASES: Final = (
    # What agents say
    (r"(?:thank you|thanks) for (?:calling|contacting|choosing|reaching out|holding|waiting|joining)", 2.0, 2.08),
    (
        r"(?:thank you|thanks) for (?:providing|confirming|verifying|sharing|that|your patience|the (?:information"
        r"|details|update))",
        1.0,
        1.27,
    ),
    (r"(?:how|what) (?:can|may|could) (?:i|we) (?:help|assist|do for you|be of)", 2.0, 2.06),
    (r"(?:this is|my name is|my names) \w+ (?:from|with|here at|here with|at|speaking|and ill be)", 0.7, 0.7),
    (r"(?:youre speaking (?:with|to)|welcome to|how are you (?:doing )?today)", 1.0, 1.0),
    (r"(?:can|could|may|might) i (?:please |just )?(?:have|get|ask|take|place you|put you|start with)", 1.0, 0.56),
    (
        r"(?:can|could|would|will) you (?:please |just |also )?(?:provide|confirm|verify|spell|repeat|tell me"
        r"|describe|give me|hold|state|let me know|check|try|open)",
        1.0,
        1.9,
    ),
    (rf"\byour (?:\w+ )?(?:name|{_THING})", 1.0, 1.29),
    (
        r"let me (?:just )?(?:check|look|pull|see|verify|transfer|connect|put you|bring|get that|go ahead"
        r"|take a look|help)",
        1.0,
        0.65,
    ),
    (
        r"i(?:ll| will| can| would| am going to|m going to) (?:go ahead and |just |now |also |be happy to "
        r"|gladly )*(?:transfer|connect|send you|help you|assist|look into|process|update your|set that|pull"
        r"|take care|put you|get you|need to verify|escalate|create|guide|walk you|offer)",
        1.0,
        0.97,
    ),
    (r"(?:happy|glad|here|love|pleased) to (?:help|assist)", 1.0, 1.31),
    (
        r"anything else (?:i|we) (?:can|could|may)|anything else (?:you|that you|youd)|(?:is there"
        r"|was there) anything else (?:today|for)",
        2.0,
        2.21,
    ),
    (
        r"(?:please hold|bear with me|one moment|hold on (?:one|a) (?:moment|second)|for holding|while i (?:check"
        r"|look|pull|get))",
        1.0,
        1.22,
    ),
    (
        r"for (?:security|verification|quality|training) (?:purposes|reasons)|(?:verify|confirm) your|call (?:is"
        r"|may be) (?:being )?recorded",
        1.0,
        1.01,
    ),
    (
        r"have you (?:tried|checked|made|noticed|restarted|already|got|had|received)|did you (?:try|receive|notice"
        r"|make|want)|do you (?:see|have (?:a|an|any|the|your)|notice|know (?:the|your)|want me|still)",
        1.0,
        1.62,
    ),
    (
        r"(?:youll|you will|you should|you need to|you may|you might|you can|youd) (?:now |also |then |be able "
        r"|need to |want to )?\w+",
        0.5,
        1.91,
    ),
    (r"sorry (?:to hear|about that|for (?:the|any|your))|i apologi[sz]e|apologies for", 1.0, 1.11),
    (r"i (?:completely |totally |do )?understand (?:your|how|that|the)|i see (?:your|that you|here)", 1.0, 1.25),
    (r"you(?:re| are) (?:very |most )?welcome|my pleasure", 1.0, 1.32),
    (
        r"\bour (?:\w+ )?(?:system|systems|records|team|policy|department|website|office|customers|service"
        r"|services|agents|specialists|technicians?|support)",
        1.0,
        1.06,
    ),
    (
        r"\bwe (?:can|will|offer|apologi[sz]e|appreciate|do have|have (?:a|an|several|some)|recommend|value"
        r"|do offer|ll)|well (?:send|get|have|need|make sure)",
        0.7,
        0.86,
    ),
    (r"appreciate your (?:patience|business|call|understanding)|your (?:business|patience|call is)", 1.0, 1.08),
    (
        r"have a (?:great|good|nice|wonderful|lovely|pleasant) (?:day|one|evening|weekend|afternoon|rest)"
        r"|take care",
        0.5,
        0.47,
    ),
    (r"\b(?:sir|maam|madam|mr|mrs|ms|mister|miss)\b", 0.5, 0.5),
    (
        r"(?:if you have any|feel free|dont hesitate|please (?:call|contact|let (?:me|us)|make sure|try|go|click"
        r"|enter|reach))",
        1.0,
        1.48,
    ),
    (r"(?:lets|we can) (?:try|start|check|see|go|take a look|begin|work|make sure|get)", 1.0, 1.85),
    (
        r"\b(?:i have|ive|i just|i) (?:verified|updated|sent|located|processed|scheduled|added|credited|submitted"
        r"|pulled up|transferred) (?:\w+ )?(?:your|you|that|the|it)",
        1.0,
        1.01,
    ),
    # What customers say
    (
        r"(?:im|i am|i was|ive been|just) (?:just )?(?:calling|phoning|ringing)|(?:reason|why) (?:im|i am|i) call",
        -2.0,
        -2.0,
    ),
    (
        r"i(?:m| am|ve been| have been| was) (?:just |also |having |really )?(?:wondering|trying|hoping|looking"
        r"|unable|having|not able|getting|experiencing|worried|confused|frustrated|upset|interested)",
        -1.0,
        -1.4,
    ),
    (r"i(?:d| would) (?:like|love|prefer|appreciate|rather) ?(?:to|it|a|an|that|some)?", -1.0, -1.06),
    (r"\bi (?:just |really |also |still |only )?(?:need|want|wanted|wanna|needed)\b", -1.0, -1.15),
    (
        r"i(?:ve| have)? (?:got |had )?(?:a|an|some|this|another) (?:quick )?(?:problem|issue|question|issues"
        r"|trouble|complaint|concern|account)",
        -1.0,
        -1.0,
    ),
    (
        r"\bi(?:ve| have)? (?:just |already |recently |accidentally |never )?(?:ordered|bought|paid|received|lost"
        r"|forgot|got|tried|called|noticed|purchased|signed|booked|cancelled|canceled|moved|made|saw|checked"
        r"|changed|did|didnt|used|opened|installed|left|broke|had)\b",
        -1.0,
        -1.39,
    ),
    (r"\bi (?:cant|cannot|couldnt|dont|didnt|havent|can not|wasnt|am not)\b", -0.7, -1.47),
    (rf"\bmy (?:\w+ )?{_THING}", -1.0, -1.08),
    (r"\bmy (?!names?\b|pleasure|colleagues?\b|supervisor|manager|team|system|screen|records)\w+", -0.5, -1.15),
    (
        r"\b(?:it|that|they|this|which) (?:just |still |always |only )?(?:says|said|keeps|doesnt|didnt|wont|isnt"
        r"|hasnt|never|shows|stopped|started|happened|looks like|seems|worked|works)\b",
        -0.7,
        -1.06,
    ),
    (
        r"(?:when|how|what|where|why|which) (?:do|should|can|did|would|will|am|could|was) (?:i|my|it|that"
        r"|they)\b(?! (?:help|assist|be of|do for you))",
        -1.0,
        -1.02,
    ),
    (r"how (?:much|long|soon|often) (?:is|will|does|do|would|are)", -0.7, -0.7),
    (
        r"(?:can|could|will|would) you (?:please |just )?(?:help me|explain|send me|transfer me|fix|cancel|change"
        r"|make sure|do (?:that|something)|recommend)",
        -0.7,
        -0.6,
    ),
    (
        r"(?:can|could|may) i (?:just |please |also )?(?:speak|talk|still|use|change|cancel|return|pay|do|keep|go"
        r"|come|call)",
        -1.0,
        -1.09,
    ),
    (
        r"(?:thanks|thank you)(?: so much| very much)? for (?:your|all|the|helping|explaining)(?: your)? ?(?:help"
        r"|assistance|time|support)?|thanks for (?:the )?help",
        -1.0,
        -1.04,
    ),
    (
        r"(?:ill|i will|let me) (?:try|do|give|keep|wait|follow|make sure|restart|have to|take (?:it|that))"
        r"|im (?:looking at|seeing|clicking|in|on)",
        -0.7,
        -1.33,
    ),
    (
        r"(?:do i|should i|am i|is it possible|is there (?:a|any|anything)(?: way)? (?:i|to|that i)?|what (?:if"
        r"|about)|does (?:that|it|this) mean)",
        -1.0,
        -1.28,
    ),
    (
        r"you guys|your (?:company|people|colleague|website says)|somebody (?:there|told)|someone (?:told"
        r"|from your)|i was told",
        -1.0,
        -1.0,
    ),
    (r"^(?:yes|yeah|yep|sure|okay|ok|no|nope|um|uh)\b", -0.5, -1.29),
    (
        r"^(?:hi|hello|hey)\b(?! (?:thank|thanks|welcome|this is \w+ (?:from|with)|my name)).*\b(?:i|my|im|id"
        r"|ive)\b",
        -0.7,
        -0.82,
    ),
)
"""Regular expressions over plain text (`plain`), the log-odds that each found in a turn was judged to add, and what
the fit made of it. Positive: the agent."""

MOST_OF_A_TURN: Final = 3.0
"""Most that one turn can say, either way: one long turn must not decide a call alone. Judgement."""
CERTAINTY: Final = 0.95
"""Probability from which a role is believed. Judgement; docs/roles.md has what comes of it."""

_PATTERNS: Final = tuple((re.compile(pattern), weight) for pattern, _, weight in PHRASES)
_ALL_ALIKE: Final = 0.3
"""How likely it is, against one agent and one customer, that all speakers sound like agents (a transfer, a voice that
diarization split in two), and the same of customers (a private talk). Judgement: so nobody is a customer before
somebody else has sounded like an agent, and two people who chat are neither."""
_FARTHEST: Final = 20.0
"""Where a speaker's log-odds stop: far beyond any threshold, and small enough to be turned by a mistake found out.
Judgement."""


def plain(text: str) -> str:
    """The words of `text` as the phrases have them: lower case, without punctuation and apostrophes."""
    bare = text.lower().replace("’", "").replace("'", "")
    return " ".join(re.sub(r"[^\w@ ]", " ", bare).split())


def evidence(text: str) -> float:
    """Log-odds, agent against customer, that the one who said `text` is the agent; 0 when it tells nothing."""
    words = plain(text)
    total = sum(weight for pattern, weight in _PATTERNS if pattern.search(words))
    return round(min(max(total, -MOST_OF_A_TURN), MOST_OF_A_TURN), 4)


@dataclass(slots=True)
class Parties:
    """The speakers of one call whose roles are to be found."""

    odds: dict[str, float] = field(default_factory=dict)
    """Log-odds of each speaker, in order of appearance."""
    roles: dict[str, Role | None] = field(default_factory=dict)
    """The role of each speaker that has, or had, one; None: what bears his name was said with one that he has not."""

    @classmethod
    def restore(cls, snapshot: bytes) -> Self:
        """As it was when `snapshot` was taken."""
        return cls(**json.loads(snapshot)) if snapshot else cls()

    def snapshot(self) -> bytes:
        """All of it; b"" when nothing is known."""
        if not self.odds:
            return b""
        return json.dumps({"odds": self.odds, "roles": self.roles}, separators=(",", ":")).encode()

    def hear(self, speaker: str, text: str) -> None:
        """Add what `speaker` said."""
        self._add(speaker, evidence(text))

    def merge(self, speaker: str, same_as: str) -> None:
        """`speaker` turned out to be `same_as`, who takes over the evidence, and what was written of him."""
        if speaker in self.roles:
            del self.roles[speaker]
            self.roles.setdefault(same_as, None)
        if speaker in self.odds:
            self._add(same_as, self.odds.pop(speaker))

    def _add(self, speaker: str, odds: float) -> None:
        total = self.odds.get(speaker, 0.0) + odds
        self.odds[speaker] = round(min(max(total, -_FARTHEST), _FARTHEST), 4)

    def probabilities(self, speaker: str) -> dict[Role, float]:
        """Of each role of `speaker`, given what all have said: a sum over all ways to give out the two roles.

        A customer needs an agent: where all sound like customers, they may be two who chat, and are unknown.
        """
        own = math.exp(self.odds[speaker])
        others = [math.exp(odds) for name, odds in self.odds.items() if name != speaker]
        any_way, all_agents = math.prod(1 + other for other in others), math.prod(others)
        agent = own * (any_way - (1 - _ALL_ALIKE) * all_agents)
        customer, unknown = any_way - 1, _ALL_ALIKE
        total = agent + customer + unknown
        return {"agent": agent / total, "customer": customer / total, "unknown": unknown / total}

    def role(self, speaker: str) -> tuple[Role, float | None]:
        """(role, its probability) of `speaker`; None for one who is unknown."""
        role = self.roles.get(speaker) or "unknown"
        return role, None if role == "unknown" else round(self.probabilities(speaker)[role], 4)

    def decide(self, certainty: float = CERTAINTY) -> list[str]:
        """Give each speaker the role that is at least `certainty` probable; the speakers whose role has changed.

        A role once given is kept while it is likelier than not; then the speaker has the other, or is unknown again.
        """
        changed = []
        for speaker in self.odds:
            before = self.roles.get(speaker, "unknown")
            now: Role = "unknown"
            for role in ("agent", "customer"):
                if self.probabilities(speaker)[role] >= (0.5 if role == before else certainty):
                    now = role
            if now != before:
                self.roles[speaker] = now
                changed.append(speaker)
        return changed
