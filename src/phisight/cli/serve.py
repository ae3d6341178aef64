"""`serve`: the OpenAI chat API on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from phisight.cli import options
from phisight.params import EngineConfig, LoadOptions


@options.expand()
def serve(
    model: options.ModelName = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 8000,
    *,
    placed: LoadOptions,
    engine: EngineConfig,
) -> None:
    """Answer requests of the OpenAI chat API at http://127.0.0.1:8000/v1.

    Pictures come as data URLs. There are no keys and no encryption: who reaches it can use it.
    """
    try:
        import uvicorn

        from phisight.server.app import LOOPBACK, make_app
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"{error.name} is missing: pip install 'phisight[serve]'", param_hint="serve"
        ) from None
    from phisight.api import load
    from phisight.cli import output

    loaded = load(model, **options.loading(placed, engine))
    output.note_model(loaded)
    local = host in LOOPBACK
    if not local:
        output.note(f"{host} can be reached from elsewhere, and whoever reaches it can use it")
    output.note(f"{loaded.name} at http://{host}:{port}/v1")
    app = make_app(loaded, hosts=LOOPBACK if local else ("*",))
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)
