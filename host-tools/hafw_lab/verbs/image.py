# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab image`: the disks that virtual machines boot from, built, listed and removed."""

import argparse

from agent.arguments import parse_path
from hafw_lab.image.debian import Release
from hafw_lab.image.store import Image, find_images, prune_images, require_image
from hafw_lab.spoken import say, show, show_json


def add_arguments(verb: argparse.ArgumentParser) -> None:
    orders = verb.add_subparsers(dest="order", required=True, metavar="build|list|prune")
    build = orders.add_parser("build", help="build what is not in the cache yet")
    build.add_argument("--release", choices=[one.value for one in Release], help="default: every release")
    build.add_argument("--desktop", action="store_true", help="the image with an X session in it")
    build.add_argument("--fresh", action="store_true", help="with the archive's packages of today")
    build.add_argument(
        "--deb",
        type=parse_path,
        metavar="FILE",
        help="hafw-agent; default: from the checkout, or as it is installed here",
    )
    prune = orders.add_parser("prune", help="remove the images and trees that were not used last")
    prune.add_argument("--all", action="store_true", help="remove every one")
    for order in (build, prune, orders.add_parser("list", help="what is in the cache")):
        order.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    match args.order:
        case "build":
            releases = [args.release] if args.release else [one.value for one in Release]
            _show(
                [
                    require_image(one, say, package=args.deb, fresh=args.fresh, desktop=args.desktop)
                    for one in releases
                ],
                args.json,
            )
        case "prune":
            freed = prune_images(say, every=args.all)
            if args.json:
                show_json({"freed_bytes": freed}, indent=None)
            else:
                show(f"{freed / 1e6:.0f} MB freed")
        case _:
            _show(find_images(), args.json)
    return 0


def _show(images: list[Image], as_json: bool) -> None:
    if as_json:
        show_json([image.to_json() for image in images])
    elif not images:
        show("no images; build them with: hafw-lab image build")
    for image in () if as_json else images:
        home, about = image.disk.parent, image.to_json()
        show(f"{image.kind:16} {image.key}  {about['megabytes']:5} MB  {about['built']}  {home}")
