"""`calltide feeder`: what `calltide web` starts to work on uploads."""


def feeder() -> None:
    """Work on what was uploaded; `calltide web` runs it when there is something to do."""
    from streams import service
    from streams.api.feeder import Feeder
    from streams.settings import load

    settings = load()
    service.run(settings, None, Feeder(settings).run)
