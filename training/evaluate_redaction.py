"""How much personal data is taken out of sentences that others wrote: the templates of presidio-evaluator.

    pip install faker==40.54.0 && pip download --no-deps presidio-evaluator==0.3.2
    unzip presidio_evaluator-0.3.2-py3-none-any.whl 'presidio_evaluator/data_generator/raw_data/templates.txt'
    python -m training.evaluate_redaction presidio_evaluator/data_generator/raw_data/templates.txt

Written chat messages, not calls: their value is that nobody here wrote them (MIT, Microsoft). Faker fills them in. A
changer must know: the rules were mended once after a look at what they missed here, so they are not wholly unseen.
"""

import argparse
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from faker import Faker

from processors.redaction import Kind
from streams.evaluation.redaction import Part, Sample, measure

ROUNDS: Final = 10
_PLACE: Final = re.compile(r"(\{\{\w+\}\})")


def samples(templates: list[str], seed: int) -> list[Sample]:
    """Each template `ROUNDS` times, with other values."""
    fake = Faker("en_US")
    fake.seed_instance(seed)
    chance = random.Random(seed)
    personal: dict[str, tuple[Kind, Callable[[], str]]] = {
        "credit_card_number": ("card", fake.credit_card_number),
        "phone_number": ("phone", fake.phone_number),
        "email": ("email", fake.email),
        "iban": ("iban", fake.iban),
        "ssn": ("ssn", fake.ssn),
        "address": ("address", lambda: fake.address().replace("\n", ", ")),
        # Parts of an address are counted as one.
        "zipcode": ("address", fake.zipcode),
        "postcode": ("address", fake.postcode),
    }
    others: dict[str, Callable[[], str]] = {
        "organization": fake.company,
        "person": fake.name,
        "name": fake.name,
        "city": fake.city,
        "country": fake.country,
        "street_name": fake.street_name,
        "building_number": fake.building_number,
        "secondary_address": fake.secondary_address,
        "state_abbr": fake.state_abbr,
        "year": fake.year,
        "url": fake.url,
        "ip_address": fake.ipv4,
        "date_time": fake.date,
        "date_of_birth": fake.date,
        "age": lambda: str(chance.randint(2, 90)),
    }
    made = []
    for template in templates * ROUNDS:
        parts: list[Part] = []
        for piece in _PLACE.split(template.strip().replace("\\n", " ")):
            name = piece[2:-2] if _PLACE.fullmatch(piece) else ""
            kind, make = personal.get(name, (None, others.get(name, fake.first_name)))
            text = make() if name else piece
            if parts and text and not (parts[-1].text[-1:].isspace() or text[0].isspace()):
                # What stands in one word with it, such as a point, is taken out with it.
                glued, _, rest = text.partition(" ")
                before = parts.pop()
                parts.append(Part(before.text + glued, before.kind or kind))
                text = f" {rest}" if rest else ""
            if text:
                parts.append(Part(text, kind))
        kept = tuple(part for part in parts if part.text.strip())
        made.append(Sample("template", (("customer", kept),)))
    return made


def main() -> None:
    """Print recall and precision of each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("templates", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--missed", action="store_true", help="print what is not as it should be")
    arguments = parser.parse_args()
    lines = arguments.templates.read_text(errors="replace").splitlines()
    result = measure(samples(lines, arguments.seed))
    for kind, tally in sorted(result.kinds.items()):
        print(f"{kind:8} {tally.there:4} there, recall {tally.recall:.1%}, precision {tally.precision:.1%}")
    for _, before, after in result.missed if arguments.missed else ():
        print(f"- {before}\n+ {after}")


if __name__ == "__main__":
    main()
