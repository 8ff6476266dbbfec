"""What people say in calls when they complain, object, promise, or have what they wanted: English, as patterns.

They are matched against single sentences with straight apostrophes, whatever the case. A changer must know: they are
generic on purpose, nothing of them is about one company's goods; what they find of made calls is in docs/insights.md.
All of them are judgement.
"""

import re
from collections.abc import Mapping
from typing import Final


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(patterns)})", re.IGNORECASE)


# Without the apostrophe, as some recognisers write.
_NOT: Final = r"(?:not|never|no longer|\w+n't|cannot|dont|doesnt|didnt|isnt|wont|cant|wasnt|arent)"
_ILL: Final = (
    r"(?:i'?ll|i will|i am going to|i'm going to|i shall|we'?ll|we will|we are going to|we're going to|let me)"
)

COURTESY: Final = _any(
    r"thank(?:s| you) for (?:calling|contacting|choosing|holding|waiting|your (?:time|patience|call))",
    r"(?:how|what) (?:can|may|could) (?:i|we) (?:help|assist|do for you)",
    r"how (?:are|is) (?:you|it|your day)",
    r"have a (?:\w+ )?(?:day|one|evening|weekend|afternoon|night|time)",
    r"good ?bye\b|bye\b|take care\b|see you\b",
    r"you(?:'re| are) (?:very |most )?welcome\b(?! to)",
    r"my (?:\w+ )?name is\b|speaking with\b|this is \w+ (?:from|speaking|with|at|here)",
    r"(?:give|giving|gave) you (?:guys |all )?a (?:call|ring)|thank(?:s| you) (?:so|very) much\b",
    r"(?:hold on|please hold|one moment|just a (?:moment|second|minute)|bear with me)",
    r"(?:is there )?anything else\b",
    r"i(?:'m| am)? (?:glad|happy|here) (?:i|to|that)\b",
    r"(?:don't|do not) hesitate\b|feel free to (?:call|contact|reach)",
    r"(?:i |we )?(?:really )?appreciate (?:your|you|it|that|the)\b",
)
"""Nothing of the matter is in it: it has no place in a summary."""

REASON: Final = _any(
    r"(?:i'm|i am|i was|we're|we are) (?:calling|phoning|ringing|contacting|reaching out|looking (?:for|to)"
    r"|wondering)",
    r"(?:i'd|i would|we'd|we would) like (?:to|some|a|an)\b",
    r"(?:i|we) (?:just |really )?(?:need|want|wanted|require)\b",
    r"(?:i'm|i am|we're|we are|i've been|we've been|i have been) (?:having|experiencing|trying|unable|locked"
    r"|waiting)\b",
    r"(?:i|we)(?:'ve| have|'ve got| have got| had| got)? (?:a |an |some |this |another )?(?:\w+ ){0,2}"
    r"(?:problem|issue|question|trouble|difficult(?:y|ies)|complaint|query)\b",
    r"(?:i|we) (?:can't|cannot|couldn't|could not|am unable|still haven't|haven't|have not|didn't|did not)\b",
    r"(?:help|assist)(?: me| us)? (?:with|to|resetting|setting)\b",
    r"(?:it's|this is|it is|i call|i called) (?:about|regarding|because|concerning)\b",
    r"(?:isn't|is not|doesn't|does not|won't|stopped|not) work(?:ing)?\b",
)
"""How customers begin to tell why they call."""

OUTBOUND: Final = _any(
    r"(?:i'm|i am|we're|we are) (?:calling|phoning|contacting|reaching out)(?: you)?(?: today)? "
    r"(?:about|because|regarding|to|with|in|from|on|concerning|just)",
    r"the reason (?:for|of|why|i)(?: my| am|'m)? call",
)
"""How agents do who have called themselves."""

ISSUES: Final[Mapping[str, re.Pattern[str]]] = {
    "no_access": _any(
        r"(?:can't|cannot|couldn't|unable to|not able to|won't let me|doesn't let me) (?:\w+ ){0,3}"
        r"(?:log|sign|get in|get into|access|open|connect|reach)",
        r"lock(?:ed|s|ing)? (?:me |us )?out\b|access (?:is )?denied|permission denied|forg[eo]t(?:ten)? (?:my|the"
        r"|our) pass",
    ),
    "billing": _any(
        r"(?:over|double )?charged (?:me|us|twice|for|too|again|more|wrong|the wrong)|overcharged|charged twice",
        r"(?:bill|invoice|charge|fee|payment|price)s? (?:\w+ ){0,4}(?:wrong|too high|higher|incorrect|double|twice"
        r"|declined)",
        r"(?:wrong|incorrect|unexpected|extra|hidden|strange|unknown) (?:bill|invoice|charge|amount|fee|payment)",
        rf"refund (?:\w+ ){{0,5}}{_NOT}\b|{_NOT} (?:\w+ ){{0,4}}refund|(?:payment|transfer|card) (?:was |has been "
        rf"|got )?"
        r"(?:declined|rejected|failed)",
    ),
    "delivery": _any(
        rf"{_NOT} (?:\w+ ){{0,3}}(?:arrived?|been delivered|shown up|come yet|received?|turned up|got my)\b",
        r"(?:wrong|damaged|broken|faulty|missing) (?:item|one|size|colou?r|part|product|parcel|package|order"
        r"|goods)s?\b",
        r"(?:parcel|package|order|delivery|shipment|letter|card) (?:\w+ ){0,3}(?:late|lost|missing|damaged|delayed"
        r"|gone)\b",
    ),
    "waiting": _any(
        r"(?:i've|i have|we've|we have) been (?:\w+ ){0,2}(?:waiting|on hold|holding)\b",
        r"(?:still|been) waiting\b|on hold for\b|(?:took|takes|taking|taken) (?:far |way |much )?(?:too long|forever"
        r"|ages|so long)",
        r"(?:nobody|no one|no-one) (?:\w+ ){0,2}(?:called|answered|replied|came|told|helped|responded|has|picks"
        r"|picked)",
        r"never (?:called|got back|replied|heard)",
    ),
    "repeated_contact": _any(
        r"(?:second|third|fourth|fifth|\d+(?:th|rd|nd)) (?:time|call)\b|(?:two|three|four|five|several|many"
        r"|multiple) times",
        r"(?:called|contacted|told|asked|wrote|rang|phoned|spoke|spoken)\b(?:\W+\w+){0,5}\W+(?:again|already"
        r"|last week|yesterday|before)\b",
        r"again and again|over and over|same (?:problem|issue|thing) (?:again|as|every)|keep(?:s)? (?:calling"
        r"|having to)",
    ),
    "not_working": _any(
        rf"{_NOT} (?:\w+ ){{0,3}}(?:work(?:ing|s|ed)?|respond(?:ing|s)?|load(?:ing|s)?|start(?:ing|s)?|turn(?:ing"
        rf"|s)? on"
        r"|print(?:ing|s)?|connect(?:ing|s|ed)?|switch(?:ing)? on|install(?:ing|s)?|recogni[sz]ed?|detected)\b",
        r"(?:stopped|stops|quit) (?:working|responding)\b|unresponsive\b|out of order\b|broken?\b|broke down\b"
        r"|crash(?:es|ed|ing)?\b",
        r"freez(?:es|ing)|frozen\b|(?:warning|service|engine|check) (?:\w+ )?light\b|(?<!no )(?<!any )(?:error"
        r"|fault)s?\b|fail(?:s|ed|ing|ure)?\b|outage\b|offline\b",
        r"keeps? (?:dropping|crashing|freezing|disconnecting|failing|cutting|showing|saying|giving|asking|getting)\b",
        r"(?:very|really|so|too|running|extremely|super|pretty) slow(?:ly)?\b|(?:is|are|was|has been|went"
        r"|goes) down\b",
    ),
    "mistake": _any(
        r"(?:made|make|is|been|was) (?:a |an )?(?:\w+ )?(?:mistake|error)\b|(?:is|was|are|were"
        r"|that's) (?:\w+ )?(?:wrong|incorrect)\b",
        r"not what i (?:ordered|was told|wanted|asked|expected|paid)|(?:told|promised) (?:me|us) (?:\w+ ){0,6}(?:but"
        r"|and)\b",
    ),
    "service": _any(
        r"rude\b|unacceptable\b|ridiculous\b|terrible\b|awful\b|horrible\b|appalling\b|useless\b|joke\b|disgrac\w+"
        r"|nightmare\b",
        r"(?:worst|bad|poor|lousy) (?:\w+ )?(?:service|company|experience|support)|disappoint(?:ed|ing)\b|fed up\b"
        r"|sick of\b",
        r"(?:i'm|i am|so|very|really|it's|quite) (?:\w+ )?(?:angry|upset|annoyed|frustrat(?:ed|ing)|unhappy"
        r"|annoying)\b",
        r"(?:make|file|lodge) a (?:formal )?complaint|complain\b|waste of (?:my |our )?time",
    ),
}
"""What customers say is wrong. The first sort that fits is taken."""

OBJECTIONS: Final[Mapping[str, re.Pattern[str]]] = {
    "price": _any(
        r"(?:too|so|very|really|bit|quite|pretty|more) (?:expensive|pricey|costly)|(?:can't|cannot|couldn't"
        r"|don't think i can) afford",
        r"too much (?:money|for)\b|so much money\b|(?:over|out of|beyond|not in|outside) (?:my|our|the) (?:budget"
        r"|price)",
        r"(?:cheaper|better price) (?:\w+ ){0,3}(?:elsewhere|somewhere|online|with|at)|(?:that's|that is"
        r"|it's) a lot of money",
        r"(?:price|cost)s? (?:is|are|has|have|seems?) (?:\w+ )?(?:high|too|gone up|steep)|not worth (?:it|the|that)",
    ),
    "no_need": _any(
        r"not (?:really |that |at all )?interested|(?:don't|do not|didn't) (?:\w+ )?(?:need|want) (?:it|that|this"
        r"|one|any|a|an|to (?:buy|pay|change|switch|upgrade))\b",
        r"no need (?:for|to)|(?:already|i've already|we already) (?:have|has|got|use)\b|happy with (?:what|the one"
        r"|my|our) ",
    ),
    "later": _any(
        r"(?:have to|need to|want to|let me|i'll|like to|going to) think (?:about|it over|that over)|sleep on it",
        r"not (?:right now|at the moment|today|now|yet)\b|(?:some|more|a little|a bit of) time (?:to think|to decide"
        r"|with)",
        r"(?:isn't|not) (?:a |the )?(?:good|right|best) (?:time|moment)|(?:call|try) (?:me "
        r"|you )?(?:back )?(?:another time|later|next (?:week|month|year))",
        r"(?:no time|too busy|need(?:ing)? to take a break)\b",
    ),
    "trust": _any(
        r"(?:don't|do not|can't|cannot|hardly|how (?:do|can|could|should) i) (?:really )?(?:trust|believe)"
        r"|is this (?:a |some )?(?:scam|fraud)",
        r"(?:sounds?|seems?|looks?) (?:like a scam|too good|suspicious|fishy|dodgy)|(?:i'm|i am) (?:not (?:so "
        r"|really |too |very )?sure|sceptical|skeptical|worried)\b",
        r"how do i know\b",
    ),
    "competitor": _any(
        r"(?:switch|switching|go|going|move|moving|change|changing|take (?:my|our) business) (?:over )?to (?:another"
        r"|a different|someone else|your competitor|one of)",
        r"competitors?\b|(?:other|another|different) (?:provider|company|supplier|bank|insurer|carrier|vendor)\b",
        r"better (?:offer|deal|quote|rate)\b",
    ),
    "not_alone": _any(
        r"(?:ask|talk to|check with|speak (?:to|with)|discuss (?:it|this|that) with|consult|run (?:it|this"
        r"|that) (?:by|past)) (?:my|our|the) \w+",
        r"not my (?:decision|call)\b|not up to me\b|(?:need|needs|requires?) (?:\w+ )?approval|(?:my|our) (?:boss"
        r"|manager|wife|husband|partner|board) (?:decides|has to|needs to|would)",
    ),
    "terms": _any(
        r"(?:don't|do not|won't) want (?:\w+ ){0,4}(?:contract|subscription|commitment)|locked in(?:to)?\b"
        r"|long[- ]term (?:contract|commitment)",
        r"(?:cancellation|early termination|exit) (?:fee|charge|penalty)|fine print|small print|(?:too long"
        r"|minimum) (?:a )?(?:contract|term)",
    ),
    "effort": _any(
        r"(?:too|more|so|very|really) (?:complicated|difficult|complex|confusing|technical)\b|(?:a lot of|too much"
        r"|so much) (?:work|hassle|trouble|effort)",
        r"(?:don't|do not) (?:really )?(?:understand|know how|feel comfortable|have the time)\b|hassle\b",
    ),
}
"""Why customers do not want what is offered. The first sort that fits is taken."""

_WHAT: Final = (
    r"(?:send|e-?mail|text|mail|post|forward|ship|deliver|dispatch|call|phone|ring|contact|follow up|get back"
    r"|come back"
    r"|reach out|escalate|arrange|schedule|book|organi[sz]e|process|refund|credit|submit|file|raise|create|open|log"
    r"|report"
    r"|inform|notify|update|order|replace|cancel|waive|issue|transfer|pass|note|make (?:sure|a note)|look into"
    r"|check (?:with|on|into)"
    r"|talk to|speak (?:to|with)|investigate|review|pay|bring|return|try|test|reinstall|restart|let (?:you|them|him"
    r"|her|us) know"
    r"|have (?:someone|somebody|a|our|my|the)|get you (?:in|an?|the)|ask|remove|apply|set (?:up|that)|take (?:care"
    r"|it to|that|this)|drop"
    r"|come|visit)"
)
PROMISE: Final = _any(
    rf"{_ILL} (?:\w+ ){{0,3}}{_WHAT}\b",
    r"you(?:'ll| will| should| are going to|'re going to) (?:\w+ ){0,2}(?:receive|get|hear|be (?:contacted|called"
    r"|notified|refunded|credited))\b",
    r"(?:someone|somebody|a colleague|my colleague|a technician|our team|the \w+ team|my manager|they)(?:'ll| will"
    r"| is going to) (?:\w+ ){0,2}"
    rf"{_WHAT}\b",
    r"(?:refund|replacement|e-?mail|letter|parcel|package|order|credit|invoice|confirmation|technician|ticket"
    r"|quote)s? will (?:be|arrive|go|reach|come)\b",
)
"""What somebody says that will be done."""

IN_THE_CALL: Final = _any(
    r"(?:put you|place you|transfer you|connect you|hold|help you|assist you|guide you|walk you|start|go ahead"
    r"|take a look)\b",
    r"let me (?!(?:\w+ )?(?:send|e-?mail|call you|schedule|arrange|book|escalate|order))",
    r"(?:right|just) now\b.{0,20}$",
    r"call you by\b|try that now|(?:i'll|i will) (?:just |now )?(?:try|test|check|do) (?:that|it|this|these"
    r"|them)(?: now)?\W*$",
)
"""What is done at once, in the call: no promise."""

DUE: Final = re.compile(
    r"\b(?:(?:by|on|before|until|this|next|every) (?:the )?(?:end of (?:the )?(?:day|week|month|business day)|monday"
    r"|tuesday|wednesday"
    r"|thursday|friday|saturday|sunday|week(?:end)?|month|morning|afternoon|evening|noon|tomorrow|tonight"
    r"|(?:january|february|march|april|may|june|july|august|september|october|november|december)(?: \w+)?"
    r"|\d{1,2}(?:st|nd|rd|th)?)"
    r"|(?:with)?in (?:the next )?(?:about |around |a |an |one |two |three |four |five |six |seven |ten "
    r"|twenty[- ]?four |forty[- ]?eight "
    r"|\d+(?:(?: to |-)\d+)? |few |couple of |the )+(?:business |working )?(?:minute|hour|day|week|month)s?"
    r"|tomorrow(?: morning| afternoon| evening)?|today|tonight|as soon as possible|right away|straight away"
    r"|immediately|shortly|later(?: today)?"
    r"|after (?:the|this|our) call|soon)\b",
    re.IGNORECASE,
)
"""When: the words that say so."""

OUTCOME: Final = _any(
    r"(?:i've|i have|we've|we have|i just|i) (?:now |just |already |also |successfully )*(?:updated|changed"
    r"|processed|sent|booked"
    r"|scheduled|cancelled|canceled|refunded|credited|ordered|created|opened|raised|escalated|fixed|resolved|reset"
    r"|activated|blocked"
    r"|verified|confirmed|registered|removed|added|set up|noted|submitted|applied|arranged|transferred)\b",
    r"(?:has|have) (?:now |just |already |successfully )*been (?:\w+ )?(?:\w+ed|set|sent|reset|made|done|put)\b"
    r"|successfully\b",
    r"(?<!if )(?<!whether )(?:it|that|this|everything|they|both|we)"
    r"(?:(?:'s|'re| is| are| has| have) (?:\w+ )?(?:working|worked|fixed|resolved|solved|done|sorted|set|back)"
    r"| (?:\w+ )?(?:works?|worked))\b",
    r"(?:all set|sorted out|good to go|in the system|up and running)\b",
    r"escalat\w+|ticket (?:number|has|is|for)|reference number|case number|(?:i|we) have (?:you"
    r"|an?) (?:\w+ ){0,6}(?:appointment|down for|in for)"
    r"|appointment is|you(?:'re| are) (?:booked|scheduled|set)\b",
    r"(?:didn't|did not|couldn't|could not|weren't|still|not) (?:\w+ ){0,3}(?:find a solution|fix|solve|resolve"
    r"|working|work)\b",
)
"""How people say what came of it."""

SETTLED: Final[tuple[tuple[re.Pattern[str], float], ...]] = (
    (
        _any(
            r"(?<!if )(?<!whether )(?:it|that|this|everything|they|which|now)(?:'s|'re| is| are| has| have"
            r"| both)? (?:\w+ ){0,2}(?:works?"
            r"|worked|working|fixed|solved|resolved"
            r"|sorted|perfect(?:ly)?|back to normal|better|faster|gone|printing|connected|loading)\b",
            r"(?:problem|issue|matter|question)s? (?:is|has been|was|are|seems?|seem to be"
            r"|been) (?:\w+ ){0,2}(?:solved|resolved|fixed|gone|answered|sorted)",
            r"(?:i'm|i am) in\b(?! the| a)|(?:i can|i was able to) (?:now |finally )?(?:see|log|open|access|print"
            r"|hear|use|connect)",
            r"(?:successfully|all set|that did it|that (?:solved|fixed|did|answers|answered|helped)|it did work"
            r"|sorted)\b",
        ),
        1.0,
    ),
    (
        _any(
            r"(?:that's|that is|that was|that will be|that'll be) (?:all|everything|it|great|perfect|wonderful"
            r"|fantastic|exactly)\b",
            r"(?:no|nope)[,.]? (?:that's|that is|that was|i think that's|i'm|i am) (?:all|it|everything|good|fine)\b",
            r"perfect\b|excellent\b|wonderful\b|fantastic\b|awesome\b|(?:very|so|really|been) helpful\b|(?:great"
            r"|good) (?:help|news|service)",
            r"(?:i feel|feeling) (?:\w+ )?(?:better|good|relieved|confident)|(?:much|so much|a lot) better\b"
            r"|appreciate (?:your|the|all) (?:\w+ )?(?:help|assistance|support|guidance)",
        ),
        0.5,
    ),
    (
        _any(
            rf"{_NOT} (?:\w+ ){{0,3}}(?:work(?:ing|ed)?|help(?:ed|ing)?|solved?|fix(?:ed)?|resolved?|find a solution"
            rf"|satisf\w+)\b",
            r"still (?:\w+ ){0,3}(?:not|no|isn't|doesn't|won't|can't|cannot|shows?|showing|says?|the same|broken"
            r"|down|offline|unresponsive|slow|wrong|waiting|nothing)\b",
            r"(?:problem|issue)s? (?:is|are) still\b|(?:same|another) (?:problem|issue|error)\b"
            r"|nothing (?:has )?(?:changed|happened|works|worked|helps)",
            r"even (?:if|though) (?:we|you|it) (?:didn't|couldn't|can't)",
        ),
        -1.0,
    ),
    (
        _any(
            r"escalat\w+|(?:call|come|get) back (?:later|again|to me|when|if)|look into (?:it|this|that) (?:further"
            r"|later|more)",
            r"(?:have|need|try|going) to (?:\w+ ){0,2}(?:someone else|somebody else|another|in person|a technician"
            r"|replace|buy|think about)\b",
            r"(?:more|too|so) (?:complicated|difficult|frustrating|much work)|(?:take|need) a break|disappoint\w+"
            r"|frustrat\w+|unacceptable\b|ridiculous\b",
            r"(?:gather|find|get) (?:\w+ ){0,3}more information|not right now\b|give up\b|i guess\b"
            r"|hope(?:fully)? (?:this|it|that) (?:gets|will|works)",
        ),
        -0.5,
    ),
)
"""What speaks for a matter that is settled, and against it, with its weight."""

DONE: Final = _any(
    r"successfully\b|(?:has|have) (?:now |just |already )*been (?:updated|changed|processed|cancell?ed|refunded"
    r"|credited|fixed"
    r"|resolved|reset|activated|removed|added|corrected|replaced)\b",
    r"(?:i've|i have|we've|we have) (?:now |just |already )*(?:updated|changed|processed|cancell?ed|refunded"
    r"|credited|fixed"
    r"|resolved|reset|activated|removed|added|corrected|replaced|booked|scheduled)\b|you(?:'re| are) all set\b",
)
"""What agents say of a matter that is done."""

LEFT_OPEN: Final = _any(
    r"escalat\w+|(?:couldn't|could not|unable to|not able to|can't|cannot) (?:\w+ )?(?:resolve|fix|solve|help"
    r"|do (?:that|this|it))",
)
"""What agents say of a matter that goes on after the call."""

EMPATHY: Final = _any(
    r"sorry\b|apologi\w+|(?:i|we) (?:completely |totally |fully |certainly |absolutely |do )?(?:understand|hear you"
    r"|see (?:why|how|your))",
    r"(?:that|it|this) must (?:be|have been)|(?:i|we) can (?:\w+ )?(?:imagine|understand|see)|how (?:frustrating"
    r"|annoying|difficult|upsetting|stressful)",
    r"(?:that's|that is|it's|this is) (?:\w+ )?(?:understandable|frustrating|not okay|not right|unfortunate)"
    r"|appreciate your patience|inconvenience\b",
)
GREETING: Final = _any(
    r"hello\b|hi\b|good (?:morning|afternoon|evening|day)|welcome\b|thank(?:s| you) for (?:calling|contacting"
    r"|choosing)|my name is|this is \w+|how (?:can|may) i"
)
CLOSING_QUESTION: Final = _any(
    r"(?:anything|something|what) else\b|(?:any|have you any|have any) (?:other|more|further) (?:questions|concerns"
    r"|issues)|all (?:you|that you) need(?:ed)?\b.*\?"
)
HOLD: Final = _any(
    r"(?:one|a|just a) (?:moment|minute|second|sec)\b|hold\b|bear with\b|let me (?:\w+ )?(?:check|look|see|pull|find"
    r"|get|verify|take)|give me (?:a|one|just)",
    r"(?:checking|looking|pulling|loading|waiting|searching)\b|while (?:i|we|it|that)\b|take (?:a|some) (?:moment"
    r"|minute|time|while)|i'll (?:check|look|wait)",
)
"""Somebody says that nothing will be said for a while."""
