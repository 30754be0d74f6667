"""``vemoclap-batch serve``: the web page and the API."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.errors import ConfigError, Mistakes

#: What the extra ``web`` brings, by the names that are imported.
_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "gradio")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; other machines' need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.")] = 8000,
    profile: opt.Profile = "lite", model: opt.Model = None, out: opt.Out = "serve-out", settings: opt.Settings = None,
    address: opt.Address = None, models_dir: opt.ModelsDir = None, frames: opt.Frames = None,
    max_mb: Annotated[float, typer.Option(help="Megabytes of an upload or a linked file, at most.")] = 512,
    max_minutes: Annotated[float, typer.Option(help="Minutes of a video, at most.")] = 30,
    max_queue: Annotated[int, typer.Option(help="Videos that may wait; the next are asked to come later.")] = 100,
    per_minute: Annotated[float, typer.Option(help="Videos a minute from one client; 0: any number.")] = 30,
    keep_hours: Annotated[float, typer.Option(help="Hours for which results and uploads are kept.")] = 24,
    workers: Annotated[int | None, typer.Option(help="Chains on CPUs [default: one a core, memory allowing].")] = None,
    state: Annotated[str | None, typer.Option(help="Folder of jobs and uploads [default: OUT.serve].")] = None,
    auth_token: Annotated[
        str | None, typer.Option(envvar="VEMOCLAP_AUTH_TOKEN", help="Token that the page and the API ask for.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody in who reaches --host.")] = False,
    link_host: Annotated[
        list[str] | None, typer.Option(metavar="HOST[:PORT]", help="Host of your own network that links may name.")
    ] = None,
    trusted_proxy: Annotated[
        str | None, typer.Option(metavar="IP", help="Reverse proxy whose X-Forwarded-For names the client.")
    ] = None,
    server_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Host name of a proxy before the server; * is a wildcard.")
    ] = None,
    verbose: opt.Verbose = False,
) -> None:  # fmt: skip
    """Serve the web page and the API; results go to the tables of OUT, as those of label."""
    mistakes = Mistakes()
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ConfigError([f"serve needs the packages of the extra web ({', '.join(missing)}): vemoclap-batch[web]"])
    from vemoclap_batch.app.server import serve as run
    from vemoclap_batch.app.settings import ServeSettings
    from vemoclap_batch.request import load_classifier, run_config

    asked = ServeSettings(
        out, state, host, port, auth_token, public, max_mb, max_minutes, max_queue, per_minute, keep_hours, workers,
        tuple(link_host or ()), trusted_proxy, tuple(server_name or ()),
    )  # fmt: skip
    config = classifier = None
    with mistakes.gathered():
        asked.check()
    with mistakes.gathered():
        config = run_config(profile, settings, frames, models_dir)
        classifier = load_classifier(config, model)
    mistakes.refuse()
    assert config is not None
    assert classifier is not None
    run(asked, config, classifier, address=address, verbose=verbose)
