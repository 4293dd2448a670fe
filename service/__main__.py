"""The commands of the service: serve, score, inspect, promote, rollback, prune."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from service.bundle import Bundle, closed_folders, current_version, list_models, list_versions, read_bundle
from service.command_line import USER_ERROR, Parser, share, whole
from service.interruption import interruptible
from service.manifest import BundleError
from service.settings import Settings, SettingsError, table

NOTHING_SCORED = 3  # of `score`: there is an output, whose rows all have an error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. What the user can mend is one line on standard error and exit code 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except (BundleError, SettingsError, ValueError, OSError) as error:
        if isinstance(error, ValueError) and not isinstance(error, SettingsError) and not _is_the_users(error):
            raise
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        text += "; run this as a user who may" if isinstance(error, PermissionError) else ""
        print(f"{parser.prog} {options.command}: {' '.join(text.split())}", file=sys.stderr)
        return USER_ERROR
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        install = "pip install 'tabular-anomaly-service[cpu]', or [gpu] where there is an NVIDIA GPU"
        print(f"{parser.prog} {options.command}: needs the package onnxruntime: {install}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return 130


def _serve(options: argparse.Namespace) -> int:
    from service import serve  # noqa: PLC0415 - the other commands do without uvicorn

    names = ("models_dir", "host", "port", "workers")
    return serve.serve(*serve.settings_for({name: getattr(options, name) for name in names}))


def _score(options: argparse.Namespace) -> int:
    from service.bulk import score_file  # noqa: PLC0415 - Arrow is loaded where files are scored

    settings, folder = Settings.read(), _models_dir(options)
    with interruptible(signal.SIGINT, signal.SIGTERM):
        rows = score_file(
            folder,
            options.model,
            options.data,
            options.output,
            options.keep,
            settings.provider,
            trusted=settings.trusted_keys,
            alpha=options.alpha,
            explain=options.explain,
            bad_rows=options.bad_rows,
        )
    return NOTHING_SCORED if rows.read and not rows.scored else 0


def _inspect(options: argparse.Namespace) -> None:
    from service.calibration import rounded_up  # noqa: PLC0415 - NumPy is loaded where it is used
    from service.detector import Detector  # noqa: PLC0415 - onnxruntime is loaded where graphs are run

    folder, name = _models_dir(options), options.name
    current = current_version(folder, name)
    version = options.version or current
    if version not in list_versions(folder, name):
        raise BundleError(f"model '{name}' has no version '{version}' in {folder}")
    trusted = Settings.read().trusted_keys
    bundle = read_bundle(folder / name / version, trusted=trusted)
    detector = Detector(bundle, "cpu")
    manifest = bundle.manifest
    print(f"model        {manifest.name}")
    print(f"version      {version}{' (served)' if version == current else f' (served: {current})'}")
    print(f"versions     {', '.join(list_versions(folder, name))}")
    print("verified     sizes, SHA-256, graph and golden records hold")
    print(f"signed       {_signed(bundle, checked=bool(trusted))}")
    print(f"score        {manifest.score_kind}, flagged from {manifest.threshold:.6g} at alpha {manifest.alpha:g}")
    print(f"calibration  {len(manifest.calibration.scores)} records, alpha from {rounded_up(detector.smallest_alpha)}")
    print(f"latent       {manifest.latent}")
    for label, members in (("metrics", manifest.metrics), ("libraries", manifest.libraries)):
        print(f"{label:<12} {', '.join(f'{key} {_short(value)}' for key, value in members.items()) or '-'}")
    print("features")
    for feature in manifest.features:
        seen = f" {feature.low:g} to {feature.high:g}" if feature.low is not None and feature.high is not None else ""
        values = f" {len(feature.categories)} categories" if feature.categories else seen
        print(f"  {feature.name}: {feature.kind}{values}, {feature.missing_rate:.1%} missing")
    for dropped in manifest.dropped:
        print(f"  left out: {dropped.column}: {dropped.reason}")
    for warning in manifest.warnings:
        print(f"  warning: {warning}")
    print("files")
    for file, expected in manifest.files.items():
        print(f"  {file}: {expected.bytes} bytes, sha256 {expected.sha256}")


def _promote(options: argparse.Namespace) -> None:
    from service.promotion import promote  # noqa: PLC0415 - as above

    promote(_models_dir(options), options.name, options.version, Settings.read().trusted_keys)
    print(f"{options.name}: {options.version} is served from the next reload on")


def _rollback(options: argparse.Namespace) -> None:
    from service.promotion import rollback  # noqa: PLC0415 - as above

    version = rollback(_models_dir(options), options.name, Settings.read().trusted_keys)
    print(f"{options.name}: back to {version}, served from the next reload on")


def _prune(options: argparse.Namespace) -> None:
    from service.pruning import prune  # noqa: PLC0415 - as above

    folder, name, shadow = _models_dir(options), options.name, Settings.read().shadow
    spared = [*options.pin, *([shadow[1]] if shadow is not None and shadow[0] == name else [])]
    told = prune(folder, name, options.keep, spared, dry_run=options.dry_run)
    for version in told.removed:
        print(f"{'would remove' if options.dry_run else 'removed'}  {version}")
    for version, why in told.kept.items():
        print(f"kept  {version}  ({why})")
    n, what = len(told.removed), "would be removed" if options.dry_run else "removed"
    print(f"{name}: {n} version{'' if n == 1 else 's'} {what}, {len(told.kept)} kept, {told.bytes / 1e6:,.1f} MB")


def _parser() -> Parser:
    parser = Parser(prog="python -m service", description="Scores tabular records with a published bundle.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = "\n".join(f"  {name}  {meaning}{f' (default: {default})' if default else ''}" for name, default, meaning in table())
    serve = commands.add_parser(
        "serve",
        help="answer over HTTP",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings, by environment variable:\n{names}",
    )
    serve.add_argument("--host", help="address to listen on")
    serve.add_argument("--port", help="port to listen on; 0: any free one")
    serve.add_argument("--workers", help="number of processes")
    serve.set_defaults(run=_serve)
    score = commands.add_parser("score", help="score a file")
    score.add_argument("data", metavar="DATA", help="CSV (also .gz) or Parquet file, or a folder or glob of them")
    score.add_argument("--model", required=True, help="name of the model")
    score.add_argument(
        "--output", required=True, metavar="OUT", help="CSV or Parquet by its ending; - for CSV on standard output"
    )
    score.add_argument("--keep", nargs="+", default=[], metavar="COLUMN", help="columns of DATA to carry along")
    score.add_argument("--alpha", type=share, help="false-alarm rate by which records are flagged (default: the bundle's)")
    score.add_argument(
        "--explain",
        choices=("none", "flagged", "all"),
        default="none",
        help="rows whose severity, reasons and warnings are told, as POST /score tells them (default: none)",
    )
    score.add_argument(
        "--bad-rows",
        choices=("stop", "keep"),
        default="stop",
        help="whether a row with a value that cannot be read ends all, or is kept without a score but an error (default: stop)",
    )
    score.set_defaults(run=_score)
    inspect = commands.add_parser("inspect", help="what a bundle holds, and whether it verifies")
    inspect.add_argument("name", metavar="NAME")
    inspect.add_argument("--version", help="another version than the served one")
    inspect.set_defaults(run=_inspect)
    promote = commands.add_parser("promote", help="serve another version")
    promote.add_argument("name", metavar="NAME")
    promote.add_argument("version", metavar="VERSION")
    promote.set_defaults(run=_promote)
    rollback = commands.add_parser("rollback", help="serve the version before")
    rollback.add_argument("name", metavar="NAME")
    rollback.set_defaults(run=_rollback)
    prune = commands.add_parser("prune", help="remove old versions; the served one and the one before it always stay")
    prune.add_argument("name", metavar="NAME")
    prune.add_argument("--keep", required=True, type=whole(1), metavar="N", help="how many of the newest stay")
    prune.add_argument("--pin", nargs="+", default=[], metavar="VERSION", help="versions that stay, too")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    prune.set_defaults(run=_prune)
    for command in (serve, score, inspect, promote, rollback, prune):
        command.add_argument(
            "--models-dir", help="folder of the bundles (default: ANOMALY_MODELS_DIR, or models where it is not set)"
        )
    return parser


def _models_dir(options: argparse.Namespace) -> Path:
    folder = Path(options.models_dir) if options.models_dir else Settings.read().models_dir
    name = getattr(options, "name", None) or options.model
    if not folder.is_dir():
        raise BundleError(f"{folder} is no folder; name the folder of the bundles with --models-dir")
    if name not in list_models(folder):
        closed = closed_folders(folder)
        more = f"; this user may not look into: {', '.join(closed)}" if closed else ""
        raise BundleError(f"no model '{name}' in {folder}; there are: {', '.join(list_models(folder)) or 'none'}{more}")
    return folder


def _is_the_users(error: ValueError) -> bool:
    from service.calibration import UnsupportedAlphaError  # noqa: PLC0415 - as above
    from service.tables import TableError  # noqa: PLC0415 - as above

    return isinstance(error, TableError | UnsupportedAlphaError)


def _signed(bundle: Bundle, checked: bool) -> str:
    from service.signature import parse  # noqa: PLC0415 - as above

    if bundle.signature is None:
        return "no"
    told = "which ANOMALY_TRUSTED_KEYS has" if checked else "not checked: ANOMALY_TRUSTED_KEYS is not set"
    return f"by key {parse(bundle.signature)[0]}, {told}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
