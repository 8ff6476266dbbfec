"""Forms: score cards that people write in YAML, filled for every call when it has ended.

`language` says what a form may say, `judging` fills it; the stage `insights` asks for it. docs/forms.md is the
reference for people. A changer must know: a form is filled from the whole call, as it is known at its end, and from
nothing else; what cannot be judged is absent, never 0.
"""

from functools import partial

from processors.forms.language import FormSet, parse
from processors.rules.files import PACKAGED, RuleFiles, YamlFiles
from processors.rules.language import RuleSet


class FormFiles(YamlFiles[FormSet]):
    """The forms of the setting: a YAML file, a directory of such, `none`; empty: the one that comes with Calltide. The
    rules that they name are read with them."""

    def __init__(self, path: str) -> None:
        self._rules: dict[str, RuleFiles] = {}
        own = partial(parse, rules=self._read_rules)
        super().__init__(path or PACKAGED, own, "processors.forms", "forms", "CALLTIDE_INSIGHTS__FORMS")

    def read(self) -> FormSet:
        self._rules.clear()
        return super().read()

    def changed(self) -> bool:
        return super().changed() or any(files.changed() for files in self._rules.values())

    def _read_rules(self, path: str) -> RuleSet:
        self._rules[path] = RuleFiles(path)
        return self._rules[path].read()
