"""python -m training fit | evaluate | sample: every command of training."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from service.bundle import check_name, current_version, list_models
from service.command_line import USER_ERROR, Parser, share, whole
from service.graph import GraphError
from service.interruption import interruptible
from service.manifest import BundleError, ScoreKind
from service.rules import in_words
from service.settings import Settings, SettingsError
from service.tables import TableError
from training.errors import DeviceError, FitError, ParityError
from training.options import KINDS, OptionError, Options, read
from training.tracking import TrackingError, run

if TYPE_CHECKING:
    from service.detector import Detector


MODELS_DIR = "default: ANOMALY_MODELS_DIR, or models where it is not set"
EXTRAS = {"torch": "train", "onnx": "train", "rich": "train", "onnxruntime": "cpu"}  # which one brings a package
LEFT = {  # what an interrupted command leaves
    "fit": "nothing was published by halves, and nets that were finished are kept: the same command goes on from there",
    "evaluate": "nothing was written",
    "sample": "no file was left half-written",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; exit code 0, 2 where arguments or data cannot be used, 1 where training failed, 130 after Ctrl-C."""
    args = _parse(arguments)
    try:
        with interruptible(*_signals(args.command)):
            args.run(args)
    except (TableError, BundleError, DeviceError, SettingsError, OptionError) as error:
        print(f"training {args.command}: {error}", file=sys.stderr)
        return USER_ERROR
    except (FitError, GraphError, ParityError, TrackingError) as error:
        print(f"training {args.command}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        install = f"pip install 'tabular-anomaly-service[{EXTRAS[error.name]}]'"
        print(f"training {args.command}: needs the package {error.name}: {install}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"training {args.command}: interrupted; {LEFT[args.command]}", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"training {args.command}: {error}; {LEFT[args.command]}", file=sys.stderr)
        return 1
    return 0


def _signals(command: str) -> Sequence[signal.Signals]:
    """Those after which a command cleans up. A fit has nothing to: it goes on where it was, whatever ends it."""
    if threading.current_thread() is not threading.main_thread():
        return ()
    return (signal.SIGINT, signal.SIGTERM) if command == "sample" else (signal.SIGINT,)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m training", description="Fit, evaluate and sample anomaly detection models.")
    commands = parser.add_subparsers(dest="command", required=True)

    fit = commands.add_parser("fit", help="fit a model to a table of mostly normal records and publish it")
    fit.add_argument("data", nargs="?", metavar="DATA", help="CSV (also .gz) or Parquet file, or a folder or glob of them")
    fit.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings; options given here come before it")
    fit.add_argument("--model", metavar="NAME", help="the model's name: a folder of models-dir")
    fit.add_argument("--models-dir", type=Path, metavar="DIR", help=MODELS_DIR)
    fit.add_argument("--label", metavar="COLUMN", help="the column that says what a record is")
    fit.add_argument("--normal", metavar="VALUE", help="its value for normal records; others never train")
    fit.add_argument("--seed", type=int, help="the same seed and data give the same bundle (default 0)")
    fit.add_argument("--target-fpr", type=share, help="share of normal records that may be flagged (default 0.01)")
    fit.add_argument(
        "--score",
        choices=get_args(ScoreKind),
        help="what is scored: how unusual all evidence together is (surprise, the default), -ELBO, or the reconstruction error",
    )
    fit.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="where the nets are trained (default auto: on a GPU where the table is wide)",
    )
    fit.add_argument("--drop", nargs="+", metavar="COLUMN", help="columns to leave out")
    for kind in KINDS:
        fit.add_argument(f"--{kind}", nargs="+", metavar="COLUMN", help=f"columns that are {kind}, whatever they look like")
    fit.add_argument(
        "--sign-key", type=Path, metavar="FILE", help="sign the bundle with this Ed25519 private key (PEM; needs the extra sign)"
    )
    for option, meaning in (
        ("--compare", "print the served version and the new one side by side, on records that the new one was not trained on"),
        ("--promote", "make the new version the served one (the default)"),
        ("--track", "record the fit in MLflow, where MLFLOW_TRACKING_URI says (needs the extra track)"),
    ):
        fit.add_argument(option, action=argparse.BooleanOptionalAction, help=meaning)
    fit.set_defaults(run=_fit)

    evaluate = commands.add_parser("evaluate", help="how well a model tells labelled records apart, with 95 %% intervals")
    evaluate.add_argument("data", metavar="DATA", help="a table as for fit, that did not train")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    evaluate.set_defaults(run=_evaluate)

    sample = commands.add_parser("sample", help="records that the model makes up, in the features' own units")
    sample.add_argument("--rows", type=whole(1), required=True, help="how many")
    sample.add_argument("--output", required=True, metavar="OUT", help="a CSV or Parquet file, or - for CSV on standard output")
    sample.add_argument("--seed", type=whole(0), default=0)
    sample.set_defaults(run=_sample)

    for command in (evaluate, sample):
        command.add_argument("--model", required=True, metavar="NAME", help="the model's name: a folder of models-dir")
        command.add_argument("--models-dir", type=Path, metavar="DIR", help=MODELS_DIR)
    evaluate.add_argument("--label", metavar="COLUMN", help="the column that says what a record is; without one all are normal")
    evaluate.add_argument("--normal", metavar="VALUE", help="its value for normal records")
    return parser.parse_args(arguments)


def _fit(args: argparse.Namespace) -> None:
    options, config = read(vars(args), args.config)
    from training.compare import compare  # noqa: PLC0415
    from training.data import check_fit, read_dataset  # noqa: PLC0415
    from training.progress import show  # noqa: PLC0415
    from training.publish import check_folder  # noqa: PLC0415
    from training.table.summary import lines  # noqa: PLC0415

    check_folder(options.models_dir / check_name(options.model))
    sign = None
    if options.sign_key:
        from service.signature import signer  # noqa: PLC0415

        sign = signer(options.sign_key)
    served = _served(options) if options.compare else None
    dataset = read_dataset(options.data, options.label, options.normal, options.drop, options.kinds)
    check_fit(dataset, config)
    # torch takes two seconds to import: who reads a refusal need not wait
    from training.train import choose_device, train  # noqa: PLC0415

    choose_device(config)  # a refusal is one line, so what can be refused comes before the summary
    recording = run(options, config) if options.track else nullcontext()
    with recording as record:
        for line in lines(dataset):
            print(line, file=sys.stderr)
        with show(config) as progress:
            published = train(dataset, options.model, options.models_dir, config, progress, sign, options.promote)
        manifest, version, told = published.manifest, published.folder.name, None
        for warning in manifest.warnings[len(dataset.warnings) :]:
            print(f"warning: {warning}", file=sys.stderr)
        for name, figure in manifest.metrics.items():
            print(f"{name}: {figure:.4g}", file=sys.stderr)
        if found := in_words(manifest.rules, manifest.features):
            print(f"rules that the training records keep: {len(found)}, listed in the report", file=sys.stderr)
        if served:
            told = compare(served, manifest, version, published.judged, options.data).as_table()
            print(told)
        if not options.promote and version != _current(options):
            command = f"python -m service promote {options.model} {version} --models-dir {options.models_dir}"
            print(f"not served yet: {command}", file=sys.stderr)
        print(published.folder, flush=True)
        if record:
            record(published, told)


def _current(options: Options) -> str | None:
    """The version that is served, if any is. Raises BundleError."""
    check_name(options.model)
    there = list_models(options.models_dir) if options.models_dir.is_dir() else []
    return current_version(options.models_dir, options.model) if options.model in there else None


def _served(options: Options) -> Detector | None:
    """The served version, to compare with. Raises BundleError where it cannot be used."""
    from service.detector import open_detector  # noqa: PLC0415 - onnxruntime is loaded where graphs are run

    version = _current(options)
    if version is None:
        print(f"nothing to compare with: no version of {options.model} is served yet", file=sys.stderr)
        return None
    return open_detector(options.models_dir, options.model, version, "cpu", Settings.read().trusted_keys)


def _evaluate(args: argparse.Namespace) -> None:
    if (args.label is None) != (args.normal is None):
        raise OptionError("--label and --normal go together: give both or neither")
    from training.evaluate import evaluate  # noqa: PLC0415

    settings = Settings.read()
    models_dir = args.models_dir or settings.models_dir
    evaluation = evaluate(
        models_dir, args.model, args.data, args.label, args.normal, provider=settings.provider, trusted=settings.trusted_keys
    )
    print(evaluation.as_json() if args.json else evaluation.as_table())


def _sample(args: argparse.Namespace) -> None:
    from training.sample import sample  # noqa: PLC0415

    settings = Settings.read()
    models_dir = args.models_dir or settings.models_dir
    sample(models_dir, args.model, args.rows, args.seed, args.output, trusted=settings.trusted_keys)


if __name__ == "__main__":
    sys.exit(main())
