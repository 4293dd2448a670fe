"""python -m training fit | evaluate | sample: every command of training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from service.graph import GraphError
from service.manifest import BundleError, Kind
from service.settings import Settings, SettingsError
from service.tables import TableError

KINDS = get_args(Kind)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, no usage: what was found and what to do."""
        print(f"{self.prog}: {message}; see '{self.prog} --help'", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code is 0, 2 where arguments or data cannot be used, or 1 where training failed."""
    args = _parse(arguments)
    from training.fit import DeviceError, FitError  # noqa: PLC0415  # torch takes two seconds to import: --help need not wait
    from training.parity import ParityError  # noqa: PLC0415

    try:
        args.run(args)
    except (TableError, BundleError, DeviceError, SettingsError, argparse.ArgumentTypeError) as error:
        print(f"training {args.command}: {error}", file=sys.stderr)
        return 2
    except (FitError, GraphError, ParityError) as error:
        print(f"training {args.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"training {args.command}: {error}; the versions that are published are whole; mend it and run this again",
            file=sys.stderr,
        )
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m training", description="Fit, evaluate and sample anomaly detection models.")
    commands = parser.add_subparsers(dest="command", required=True)

    fit = commands.add_parser("fit", help="fit a model to a table of mostly normal records and publish it")
    fit.add_argument("data", metavar="DATA", help="CSV (also .gz) or Parquet file, or a folder or glob of Parquet files")
    fit.add_argument("--seed", type=int, default=0, help="the same seed and data give the same bundle (default 0)")
    fit.add_argument("--target-fpr", type=_share, default=0.01, help="share of normal records that may be flagged (default 0.01)")
    fit.add_argument(
        "--score",
        choices=("surprise", "elbo", "reconstruction"),
        default="surprise",
        help="what is scored: how unusual all evidence together is (default), -ELBO, or the reconstruction error",
    )
    fit.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the nets are trained")
    fit.add_argument("--drop", nargs="+", default=[], metavar="COLUMN", help="columns to leave out")
    for kind in KINDS:
        fit.add_argument(
            f"--{kind}", nargs="+", default=[], metavar="COLUMN", help=f"columns that are {kind}, whatever they look like"
        )
    fit.add_argument(
        "--sign-key", type=Path, metavar="FILE", help="sign the bundle with this Ed25519 private key (PEM; needs the extra sign)"
    )
    fit.set_defaults(run=_fit)

    evaluate = commands.add_parser("evaluate", help="how well a model tells labelled records apart, with 95 %% intervals")
    evaluate.add_argument("data", metavar="DATA", help="a table as for fit, with a label column")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    evaluate.set_defaults(run=_evaluate)

    sample = commands.add_parser("sample", help="records that the model makes up, in the features' own units")
    sample.add_argument("--rows", type=int, required=True, help="how many")
    sample.add_argument("--output", required=True, metavar="OUT", help="a CSV or Parquet file, or - for CSV on standard output")
    sample.add_argument("--seed", type=int, default=0)
    sample.set_defaults(run=_sample)

    for command in (fit, evaluate, sample):
        command.add_argument("--model", required=True, metavar="NAME", help="the model's name: a folder of models-dir")
        command.add_argument("--models-dir", type=Path, default=Path("models"), metavar="DIR", help="default: models")
    for command, required in ((fit, False), (evaluate, True)):
        command.add_argument("--label", metavar="COLUMN", required=required, help="the column that says what a record is")
        command.add_argument(
            "--normal", metavar="VALUE", required=required, help="its value for normal records; others never train"
        )
    return parser.parse_args(arguments)


def _fit(args: argparse.Namespace) -> None:
    from training.config import Config  # noqa: PLC0415
    from training.data import read_dataset  # noqa: PLC0415
    from training.progress import show  # noqa: PLC0415
    from training.train import train  # noqa: PLC0415

    if (args.label is None) != (args.normal is None):
        raise argparse.ArgumentTypeError("--label and --normal go together: give both or neither")
    sign = None
    if args.sign_key:
        from service.signature import signer  # noqa: PLC0415

        sign = signer(args.sign_key)
    kinds: dict[str, Kind] = {column: kind for kind in KINDS for column in getattr(args, kind)}
    dataset = read_dataset(args.data, label=args.label, normal=args.normal, drop=args.drop, kinds=kinds)
    config = Config(seed=args.seed, target_fpr=args.target_fpr, score=args.score, device=args.device)
    with show(config) as progress:
        published = train(dataset, args.model, args.models_dir, config, progress, sign)
    for dropped in published.manifest.dropped:
        print(f"left out: column '{dropped.column}': {dropped.reason}", file=sys.stderr)
    for warning in published.manifest.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for name, figure in published.manifest.metrics.items():
        print(f"{name}: {figure:.4g}", file=sys.stderr)
    print(published.folder)


def _evaluate(args: argparse.Namespace) -> None:
    from training.evaluate import evaluate  # noqa: PLC0415

    trusted = Settings.read().trusted_keys
    evaluation = evaluate(args.models_dir, args.model, args.data, args.label, args.normal, trusted=trusted)
    print(evaluation.as_json() if args.json else evaluation.as_table())


def _sample(args: argparse.Namespace) -> None:
    from training.sample import sample  # noqa: PLC0415

    if args.rows < 1:
        raise argparse.ArgumentTypeError(f"--rows {args.rows}: at least 1 is needed")
    sample(args.models_dir, args.model, args.rows, args.seed, args.output, trusted=Settings.read().trusted_keys)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"'{text}': a share between 0 and 1 is needed, such as 0.01")
    return value


if __name__ == "__main__":
    sys.exit(main())
