"""Words by which `processors.redaction` tells what a number is: what is asked for, what stands beside it, streets.

A changer must know: a cue is looked for only in utterances that have one of CUE_WORDS. The patterns are linear: nothing
in them repeats what may repeat. After a change run `calltide eval redaction`: each word here costs precision somewhere.
"""

import re
from typing import Final

CUES: Final = tuple(
    (kind, re.compile("|".join(patterns)))
    for kind, *patterns in (
        (
            "cvv",
            r"\bcvv2?\b|\bcvc2?\b|\bc v [vc]\b|\bsecurity code|\bcard verification(?: code)?|\bprüfnummer|\bprüfziffer",
            r"\b(?:three|four|3|4) digits? (?:code )?(?:on|at) the (?:back|front|reverse)",
            r"\bcódigo de seguridad|\bcryptogramme|\bcode de sécurité",
        ),
        # After a card's number this is the code on its back, and nothing by itself.
        ("code", r"\bcode\b|\b(?:digits|code) (?:\w+ )?on the back\b|\bthree digits\b"),
        (
            "card",
            r"\b(?:credit|debit|payment|bank|visa|charge)[ -]?card|\bcard (?:number|no\b|details|digits)",
            r"\bcard (?:is |its | )?(?=\d{4})",
            r"\bmaster ?card\b|\bvisa\b(?! application| status| office)|\bamex\b|\bamerican express",
            r"\b(?:sixteen|16|fifteen|15)[ -]digit|\b(?:long|full|whole) number",
            r"\bnumber (?:that is |thats |is )?(?:on|of|from) (?:the|your|my|this|that) (?:front of (?:the|your|my) )?"
            r"(?:new |other )?card",
            r"\b(?:read|give|tell|have) (?:me |you |us |out )?(?:the|your|my) card\b",
            r"\bkreditkarte|\bkartennummer|\bnúmero de (?:la )?tarjeta|\bnuméro de (?:la |votre |ma )?carte",
        ),
        ("iban", r"\biban\b|\bi ban\b|\binternational bank account|\bi b a n\b"),
        (
            "tax_id",
            r"\btax (?:i d|id|identification|identity|payer|file|number|reference)|\btaxpayer|\bitin\b|\bein\b number",
            r"\bemployer identification|\bnational insurance|\bni number|\bsteuer|\bidentifikationsnummer|\butr\b",
            r"\bcodice fiscale|\bnumero fiscal|\bnuméro fiscal|\bcpf\b",
        ),
        (
            "ssn",
            r"\bsocial security|\bssn\b|\bs s n\b",
            r"\b(?:your|my|the|her|his) social\b(?! (?:media|network|worker|life))",
            r"\bsécurité sociale|\bseguridad social|\bsozialversicherung",
        ),
        ("email", r"\be[ -]?mails?\b|\bcorreo\b|\bcourriel"),
        (
            "phone",
            r"\b(?:phone|telephone|mobile|cell|cellphone|callback|call ?back|contact|landline|fax|whatsapp)(?: phone)?"
            r"(?: numbers?| no\b)",
            r"\b(?:his|her|my|your) (?:cell|mobile|phone|landline)\b(?! (?:bill|plan|contract|screen|app|insurance))",
            r"\b(?:phone|mobile|cell|fax|tel) (?=[+\d])|\bbest number|\bnumber (?:i can|we can|to|you can)|\bdial\b",
            r"\b(?:reach|call|text|phone|ring|contact) (?:me |you |him |her |us |them |back )*(?:at|on|under)\b",
            r"\btelefonnummer|\bhandynummer|\bteléfono|\btéléphone",
        ),
        (
            "address",
            r"\b(?:street|home|mailing|billing|shipping|delivery|postal|full|current|new|my|your|the|his|her) address",
            r"\blives? (?:at|on)\b|\blocated at|\bmoved to|\bship (?:it |that )?to|\bdeliver|\bzip\b|\bpost ?code",
            r"\bpostal code",
        ),
        (
            "other",
            r"\b(?:order|tracking|confirmation|reference|ticket|case|invoice|claim|policy|booking|reservation|part|model"
            r"|serial|flight|room|employee|member|membership|customer|account|extension|promo|error|loyalty|routing"
            r"|passport|license|licence|meter|transaction|imei|item|product|batch|gift|student|contract|vin|sort|locker"
            r"|verification|access|activation|agent|bar)[ -]?(?:card )?(?:number|no\b|id\b|i d\b|code|#|reference)",
            r"\border (?:is )?(?=\d)|\bexpir\w+|\bvalid (?:until|thru|through|from)|\bending in|\bends in",
            r"\bdate of birth|\bbirth ?da\w+|\bborn\b|\bpin\b|\bisbn\b|\bpasscode",
            r"\blast (?:four|4)\b(?! (?:digits )?of (?:your |my |the )?social)",
            r"\bauftragsnummer|\bbestellnummer|\bkundennummer",
        ),
        # Numbers by the way: what was awaited before them is awaited still.
        ("aside", r"\b(?:in|since|year|from) (?=(?:19|20)\d\d\b|nineteen|twenty)|\btotal\b|\bversion\b"),
    )
)
"""What is asked for, by what is said of it, in lower case and without apostrophes; `other`, `aside`: none."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CUE_WORDS: Final = _words(
    """
    15-digit 16-digit address addresses american amex auftragsnummer back ban bestellnummer birth birthdate
    birthday born c call callback card cards carte cell cellphone code codice contact correo courriel cpf
    credit-card cryptogramme cvc cvc2 cvv cvv2 código debit-card deliver delivered deliveries delivery dial digit
    digits e e-mail e-mails ein email emails employer ending ends expiration expire expired expires expiring
    expiry fax fiscal from handynummer i iban id in international isbn itin kartennummer kreditkarte
    kreditkartennummer kundennummer landline last live lives located mail mails mastercard mobile moved national
    ni no number numbers order passcode phone pin post postal postcode prüfnummer prüfziffer reach reference ring
    s ship since sixteen-digit social sociale ssn tarjeta tax taxpayer telefonnummer telephone teléfono text three
    total téléphone utr valid verification version visa whatsapp year zip
    """
)
"""One of them is in every cue, so that most utterances need no search."""

ACKNOWLEDGED: Final = _words(
    """
    again ah ahead alright also and by card dash er erm first followed go got hmm hyphen is it it's its ja last
    let me mhm mm moment my next no number oh ok okay one oui please right see so sorry space sure sí that that's
    thats the then uh um wait well yeah yep yes yup
    """
)
"""What is said beside a dictated number and is none of it."""

MEASURES: Final = _words(
    """
    a.m am bucks calls calories cases cent cents customers day days degrees dollar dollars employees euro euros
    feet foot gb gig gigabyte gigabytes gigs grams hertz hour hours hz inch inches items kb kg kilometers
    kilometres kilos km liters litres mb mbps megabits megabytes meters metres mile miles minute minutes month
    months ms o'clock orders p.m pence people percent percentage pieces pm points pound pounds rpm second seconds
    square tb terabytes tickets times units users volts watts week weeks year years
    """
)
"""Behind a quantity."""

SIGNS: Final = _words(
    """
    + - . _ dash dot hyphen minus period plus point underscore
    """
)

DOTS: Final = _words(
    """
    . dot point punkt punto
    """
)

TOP: Final = _words(
    """
    ai app at au be biz br ca ch co com de dev edu es eu fr gov ie in info io it me mil net nl org pl se tv uk us
    """
)

PROVIDERS: Final = _words(
    """
    aol att bellsouth btinternet comcast cox fastmail g gmail gmx google googlemail hotmail icloud live mail msn
    outlook proton protonmail sbcglobal verizon web yahoo ymail zoho
    """
)

NO_MAILBOX: Final = _words(
    """
    a about account address all an and anything are as at available be bought but buy by can check contact e-mail
    email er everything for found from go had has have he her here him his how i i'm if in is it it's its just
    listed log look mail me more my not of ok okay on online only or order ordered our out page posted reach send
    she shop shopping should sign signed site so sold something support sure that that's thats the their them then
    there they this to uh um up us visit was we website what when where which who will with would write yeah yes
    you your
    """
)
"""What is no mailbox before "at": "visit us at example dot com"."""

STREETS: Final = _words(
    """
    alley ave avenue blvd boulevard cir circle close court crescent ct dr drive highway hwy lane ln mews parkway
    pkwy pl place plaza rd road sq square st street terrace trail trl turnpike way
    bend cove expressway freeway gardens glen grove heights hill hills knoll loop manor meadow pass path pike point
    ridge route row run shore shores springs station village vista walk
    """
)

VAGUE_STREETS: Final = _words(
    """
    alley cir circle close court ct dr drive highway lane pl place plaza sq square st trail way
    bend cove freeway gardens glen grove heights hill hills knoll loop manor meadow pass path pike point ridge
    route row run shore shores springs station village vista walk
    """
)
"""Streets that mean something else as often: only after a name in capitals, or where an address is awaited."""

NO_STREET: Final = _words(
    """
    a about across all along an and any are at be block blocks by can could day days did do does dollars down each
    every first for from get go goes going got had has have he her his hour hours i if in into is it just last lot
    made make mile miles minute minutes months more most my next no not of off on one-way only onto or other our
    out over people per percent same seconds she should so some than that the their then these they this those
    through times to under up was way we weeks were when will with would year years you your
    """
)

UNITS: Final = _words(
    """
    apartment apt suite ste unit flat floor number # room
    """
)

STATES: Final = _words(
    """
    ak al alabama alaska ar arizona arkansas az ca california carolina co colorado connecticut ct dakota dc de
    delaware fl florida ga georgia hampshire hawaii hi ia id idaho il illinois in indiana iowa island jersey
    kansas kentucky ks ky la louisiana ma maine maryland massachusetts md me mexico mi michigan minnesota
    mississippi missouri mn mo montana ms mt nc nd ne nebraska nevada nh nj nm nv ny oh ohio ok oklahoma or oregon
    pa pennsylvania ri sc sd tennessee texas tn tx ut utah va vermont virginia vt wa washington wi wisconsin wv wy
    wyoming york
    """
)

CUE_BEGINNINGS: Final = ("steuer", "sozialversicherung", "identifikationsnummer", "kreditkarte")
"""Words that begin with these are cues, too."""
