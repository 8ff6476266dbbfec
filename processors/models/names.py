"""Names of people by named-entity recognition: Presidio over a spaCy pipeline (extra `redaction`).

No pipeline is packaged. A changer must know: it runs on every utterance, in the worker of ASR.
"""

from pathlib import Path
from typing import Final

from schemas.errors import CalltideError

_SURE: Final = 0.5
"""Presidio's score from which a name is believed; spaCy's entities have 0.85. Judgement."""


class PresidioNames:
    """Finds the names of people in the pipeline's language."""

    def __init__(self, model: str) -> None:
        """`model`: an installed spaCy package, or a directory. Raises CalltideError when it cannot be had."""
        try:
            import spacy
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
            from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
            from presidio_analyzer.predefined_recognizers import SpacyRecognizer
        except ModuleNotFoundError as error:
            raise CalltideError(
                f"names are found by Presidio, and {error.name} is not installed; run pip install "
                "'calltide[redaction]', or leave name out of CALLTIDE_ASR__REDACT__KINDS"
            ) from None
        path = Path(model).expanduser()
        try:
            pipeline = spacy.load(path if path.is_dir() else model)
        except (OSError, ValueError) as error:
            raise CalltideError(
                f"CALLTIDE_ASR__REDACT__NAMES_MODEL: no spaCy pipeline {model} ({str(error).splitlines()[0][:200]}); "
                "install its package, or name its directory"
            ) from None
        self.language = pipeline.lang
        # Loaded already: the engine would look for the package, and fetch it from the internet.
        engine = SpacyNlpEngine(
            models=[{"lang_code": self.language, "model_name": model}],
            ner_model_configuration=NerModelConfiguration(labels_to_ignore=[]),
        )
        engine.nlp = {self.language: pipeline}
        registry = RecognizerRegistry(supported_languages=[self.language])
        registry.add_recognizer(SpacyRecognizer(supported_language=self.language, supported_entities=["PERSON"]))
        self._analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[self.language])

    def find(self, text: str, language: str) -> list[tuple[int, int]]:
        """(first character, character behind the last) of each name; none in other languages than the pipeline's."""
        if language != self.language:
            return []
        found = self._analyzer.analyze(text, self.language, entities=["PERSON"], score_threshold=_SURE)
        return sorted((one.start, one.end) for one in found)
