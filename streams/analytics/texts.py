"""What generated callers and agents say, by who speaks, how they feel, and what the queue is about.

A changer must know: `{slot}` is one word, chosen anew each time; the terms of a pool are what the Words dashboard finds
telling, so a word that marks a feeling stands in one feeling's pools only.
"""

from typing import Final

SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "amount": tuple(f"{dollars}" for dollars in (12, 19, 24, 29, 35, 42, 49, 58, 65, 79, 86, 99, 120, 149, 180, 240)),
    "month": ("January", "March", "April", "June", "July", "August", "September", "October", "November"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "name": ("Anna", "Ben", "Carla", "David", "Elena", "Frank", "Grace", "Hassan", "Ines", "Jonas", "Kira", "Luis"),
    "surname": ("Novak", "Meyer", "Okafor", "Rossi", "Silva", "Tanaka", "Weber", "Young", "Patel", "Murphy", "Larsen"),
    "city": ("Leeds", "Dublin", "Hamburg", "Austin", "Lyon", "Porto", "Oslo", "Chicago", "Bristol", "Toronto"),
    "item": ("router", "kettle", "headset", "monitor", "jacket", "tablet", "printer", "keyboard", "lamp", "camera"),
    "plan": ("basic", "family", "business", "premium", "student", "unlimited"),
    "number": tuple(str(value) for value in range(101, 999, 17)),
    "count": ("two", "three", "four", "five", "six"),
    "device": ("phone", "laptop", "modem", "app", "box", "meter"),
}

REASONS: Final[dict[str, tuple[str, ...]]] = {
    "billing": (
        "I have a question about my invoice for {month}.",
        "I am looking at the bill and there is a line of {amount} dollars.",
        "Can you tell me what the service fee on my statement is?",
        "I would like to change the card you take the payment from.",
        "My direct debit usually goes out on the {count}th.",
        "Could you send me a copy of the invoice by email?",
    ),
    "support": (
        "My {device} does not connect since {weekday}.",
        "The {device} shows error {number} when I start it.",
        "I am setting up a new {device} and need the settings.",
        "I need to reset the password of my account.",
        "The update stopped at about {amount} percent.",
        "Where do I find the serial number of the {device}?",
    ),
    "sales": (
        "I would like to know what the {plan} plan costs.",
        "Is the {plan} plan available in {city}?",
        "What is the difference between the {plan} and the {plan} plan?",
        "We are a team of {count} and need new contracts.",
        "Do you have the {item} in stock?",
        "How long does the offer from {month} run?",
    ),
    "claims": (
        "I would like to report a claim for water damage in {city}.",
        "My claim number ends in {number}.",
        "The accident was on {weekday} near {city}.",
        "What documents do you need from the garage?",
        "Has the assessor's report arrived yet?",
        "I sent the photos on {weekday}.",
    ),
    "orders": (
        "I ordered a {item} on {weekday} and want to check the status.",
        "My order number is {number}.",
        "Can I still change the delivery address to {city}?",
        "I would like to add a {item} to my order.",
        "When will the {item} be delivered?",
        "The tracking page says it is in {city}.",
    ),
    "returns": (
        "I want to send back the {item} that came on {weekday}.",
        "Do I need the original box for a return?",
        "The {item} is the wrong size.",
        "Where do I find the return label?",
        "How long does the refund of {amount} dollars take?",
        "I returned {count} items in {month}.",
    ),
}
"""What a call is about, by queue: the customer's opening, and what comes back to it."""

CUSTOMER_NEUTRAL: Final = (
    "Yes.",
    "Yes, that is correct.",
    "No, I do not think so.",
    "Okay.",
    "One moment, I am looking for it.",
    "My name is {name} {surname}.",
    "The postcode is the one in {city}.",
    "It is on the letter from {month}.",
    "I have it in front of me now.",
    "So what do I have to do?",
    "That was on {weekday}, I believe.",
    "Let me write that down.",
    "Is that with or without tax?",
    "And the other account, the one that ends in {number}?",
    "I was told to ask for the {plan} plan.",
    "Could you repeat the number, please?",
    "I am at home most of the day on {weekday}.",
    "My email is the same as before.",
    "It says {number} on the screen.",
    "Sure, go ahead.",
    "I see.",
    "The {device} is next to me.",
    "We moved to {city} in {month}.",
    "I can wait.",
    "Does that change anything about the contract?",
    "Right, and what happens then?",
)

CUSTOMER_NEGATIVE: Final = (
    "This is ridiculous.",
    "I am really frustrated by now.",
    "I have been waiting for {count} weeks and nobody called back.",
    "This is the third time I am calling about the same problem.",
    "That is simply not acceptable.",
    "Nobody there seems to know what they are doing.",
    "I was promised a call on {weekday} and it never came.",
    "It is still broken, and I have lost a whole day.",
    "You keep telling me the same useless thing.",
    "I am very disappointed with your service.",
    "Honestly, this is the worst support I have ever had.",
    "I was on hold for {amount} minutes.",
    "Why does it always take so long with you?",
    "That is a lie, I was never told about a fee.",
    "I feel cheated.",
    "I am angry, and I think I have every reason to be.",
    "It failed again right after your technician left.",
    "How hard can it be to fix a {device}?",
    "I want to speak to your manager.",
    "This has been a terrible experience from the start.",
    "You have ruined my whole week.",
    "I am sick of being passed from one person to the next.",
    "It is unbelievable how you treat your customers.",
    "No, that does not help me at all.",
)

CUSTOMER_POSITIVE: Final = (
    "That is great, thank you so much.",
    "Perfect, that works.",
    "Oh wonderful, I did not expect that.",
    "You have been very helpful.",
    "I really appreciate it.",
    "That was quick, brilliant.",
    "Excellent, then I am happy.",
    "I am so relieved.",
    "Fantastic, it is working now.",
    "Thank you, you made my day.",
    "That is very kind of you.",
    "Lovely, exactly what I was hoping for.",
    "I am impressed, really good service.",
    "Good, that sounds like a fair solution.",
    "I will recommend you to my friends.",
    "Yes, the new {device} is amazing.",
    "Awesome, thanks {name}.",
    "I am glad I called.",
)

SOUR: Final = (
    "I have been overcharged by {amount} dollars.",
    "There is a duplicate charge on my account.",
    "You overcharged me again this month, that is outrageous.",
    "The duplicate payment went out this morning and now my account is empty.",
    "I was charged twice for the same month and I am furious.",
    "I want my money back today, all {amount} dollars of it.",
)
"""What customers of the queue that turns sour complain about."""

CHURN: Final = (
    "Then I want to cancel my contract.",
    "I am thinking about switching to another provider.",
    "Please close my account at the end of {month}.",
)
LEGAL: Final = (
    "You will hear from my lawyer.",
    "I am going to report this to the ombudsman.",
)
"""Both raise alerts."""

AGENT_OPENING: Final = (
    "Good morning, you are speaking with {name}, how can I help you?",
    "Hello and welcome, my name is {name}, what can I do for you today?",
    "Thank you for calling, this is {name} speaking.",
    "Hi, you have reached customer service, {name} here.",
    "This call may be recorded for training, my name is {name}, how can I help?",
)

AGENT_NEUTRAL: Final = (
    "Could you give me your customer number, please?",
    "I am opening your account now.",
    "Can you confirm your date of birth?",
    "One moment, the system is loading.",
    "I can see the entry from {month}.",
    "The reference number is {number}.",
    "You should get an email within {count} days.",
    "Please switch the {device} off and on again.",
    "Which version do you see on the screen?",
    "I am going to put you on hold for a moment.",
    "Thank you for holding.",
    "Let me check that with my colleague.",
    "The amount is {amount} dollars including tax.",
    "It will be delivered on {weekday}.",
    "I am sending you the form now.",
    "Do you have the letter at hand?",
    "That is the {plan} plan, is that right?",
    "I have noted that in your account.",
    "Is there anything else you would like to know?",
    "The technician comes between eight and twelve on {weekday}.",
    "Okay.",
    "All right, and your postcode?",
    "Right.",
    "I will transfer you to the department in {city}.",
)

AGENT_POSITIVE: Final = (
    "I am happy to help you with that.",
    "Good news, I can credit you {amount} dollars right away.",
    "That is no problem at all, we will sort it out together.",
    "Great, everything is set up now.",
    "Thank you very much for your patience.",
    "I am glad we could solve this.",
    "You are very welcome, have a lovely day.",
    "Excellent, that is all I need.",
)

AGENT_NEGATIVE: Final = (
    "I am very sorry about that.",
    "I apologise for the inconvenience.",
    "I understand that this is annoying.",
    "Unfortunately I cannot do that.",
    "I am afraid the payment was rejected.",
    "That should not have happened, I am sorry.",
)

GERMAN: Final = (
    "Guten Tag, mein Name ist {name} {surname}.",
    "Ich habe eine Frage zu meinem Vertrag.",
    "Einen Moment bitte, ich schaue nach.",
    "Die Nummer ist {number}.",
    "Können Sie mir das bitte per Mail schicken?",
    "Ja, das stimmt so.",
    "Wann kommt der Techniker nach {city}?",
    "Vielen Dank, auf Wiederhören.",
)
"""A language that the packaged sentiment model does not know."""

RIVAL: Final = (
    "Another provider is much cheaper.",
    "Another provider has a better offer.",
    "I have an offer from another provider.",
    "Another provider charges {amount} dollars for the same.",
    "Your competitor offers me the {plan} plan for less.",
    "I looked round, and another provider asks for {amount} dollars.",
    "Another provider told me on {weekday} that they do it for less.",
)
"""Customers who name a competitor. Phrases of different lengths, for they are put in the place of others."""

REDACTED: Final[dict[str, dict[str, float]]] = {
    "card": {"billing": 0.15, "sales": 0.08, "orders": 0.1},
    "cvv": {"billing": 0.06, "sales": 0.03},
    "phone": {"support": 0.08, "claims": 0.1, "orders": 0.06},
    "email": {"billing": 0.05, "support": 0.07, "sales": 0.1, "claims": 0.06, "orders": 0.08, "returns": 0.05},
    "iban": {"returns": 0.3},
}
"""Kinds of personal data, and in which share of a queue's calls some is taken out of a text."""

REDACTED_TEXTS: Final[dict[str, tuple[str, ...]]] = {
    "card": (
        "It is [CARD].",
        "The number is [CARD].",
        "The card number is [CARD].",
        "Yes, my card number is [CARD].",
        "It is [CARD], and it is valid until {month}.",
    ),
    "cvv": ("It says [CVV].", "The three digits are [CVV].", "On the back of it, it says [CVV]."),
    "phone": (
        "It is [PHONE].",
        "You reach me at [PHONE].",
        "My mobile number is [PHONE], any time.",
        "Call me back on [PHONE], best on {weekday}, please.",
    ),
    "email": (
        "It is [EMAIL].",
        "My address is [EMAIL].",
        "Please send it to [EMAIL], thanks.",
        "Then send it to [EMAIL] instead, please.",
    ),
    "iban": (
        "It is [IBAN].",
        "The account is [IBAN].",
        "Please transfer it to [IBAN].",
        "The account for the refund is [IBAN].",
        "My account number for the refund is [IBAN].",
    ),
}
