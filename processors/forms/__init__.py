"""Forms: score cards that people write in YAML, filled for every call when it has ended.

`language` says what a form may say, `judging` fills it; the stage `insights` asks for it. docs/forms.md is the
reference for people. A changer must know: a form is filled from the whole call, as it is known at its end, and from
nothing else; what cannot be judged is absent, never 0.
"""

from processors.forms.language import FormSet, parse
from processors.rules.files import PACKAGED, YamlFiles

SETTING = "CALLTIDE_INSIGHTS__FORMS"


def form_files(path: str) -> YamlFiles[FormSet]:
    """The forms of the setting: a YAML file, a directory of such, `none`; empty: the one that comes with Calltide."""
    return YamlFiles(path or PACKAGED, parse, "processors.forms", "forms", SETTING)
