"""Models by name of the hub: from caches laid out as huggingface_hub does, and from a
small hub of our own.

Nothing reaches the hub itself. `Hub` serves, on this machine, the four kinds of requests that
huggingface_hub makes."""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import numpy as np
import pytest
from huggingface_hub import constants
from networks import dit, fails, unet
from test_diffusers_adapter import folder

import exposure_bias as eb
from exposure_bias.adapters import hub
from exposure_bias.cli import main

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:__array_:DeprecationWarning"
    ),  # diffusers 0.42.1's own use of numpy 2
    pytest.mark.filterwarnings(
        "ignore::UserWarning:huggingface_hub"
    ),  # of symlinks and of unauthenticated requests
]

REPO = "org/ddpm-tiny"
COMMIT, OLDER = "0123456789abcdef" * 2 + "01234567", "fedcba98" * 5
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def pipeline(where: Path, **changes: Any) -> Path:
    return folder(where, "DDPMPipeline", diffusers.DDPMScheduler(**changes), unet=unet())


def files_of(source: Path) -> dict[str, bytes]:
    return {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in source.rglob("*")
        if path.is_file()
    }


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lay_out(
    cache: Path, repo: str, commit: str, files: dict[str, bytes], *refs: str, kind: str = "models"
) -> Path:
    """The folders that huggingface_hub makes of a download: blobs, a snapshot of links to them, and
    refs."""
    where = cache / f"{kind}--{repo.replace('/', '--')}"
    for name, content in files.items():
        # Large files are kept under their SHA-256, small ones under git's SHA-1.
        digest = (
            sha(content) if name.endswith(".safetensors") else hashlib.sha1(content).hexdigest()
        )
        blob, pointer = where / "blobs" / digest, where / "snapshots" / commit / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.symlink_to(blob)
    for ref in refs:
        (where / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (where / "refs" / ref).write_text(commit)
    return where


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_from_the_cache(cache: Path, tmp_path: Path) -> None:
    files = files_of(pipeline(tmp_path / "source"))
    lay_out(cache, REPO, COMMIT, files, "main", "v1.0", "refs/pr/3")
    for name, revision in (
        ("", "main"),
        ("@main", "main"),
        ("@v1.0", "v1.0"),
        ("@refs/pr/3", "refs/pr/3"),
        (f"@{COMMIT}", COMMIT),
    ):
        model = eb.load_model(REPO + name)
        assert model.name == "org/ddpm-tiny@0123456"
        read = {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json", WEIGHTS}
        expected = {
            "repo": REPO,
            "revision": revision,
            "commit": COMMIT,
            "files": {n: sha(files[n]) for n in read},
        }
        assert model.source == expected
        json.dumps(model.source)
    local = eb.load_model(tmp_path / "source")
    assert (model.weight_hash, local.source) == (local.weight_hash, None)
    assert eb.remedies.epsilon_scaled(model, 1.01).source == model.source


def test_a_revision_is_that_revision(cache: Path, tmp_path: Path) -> None:
    lay_out(
        cache, REPO, OLDER, files_of(pipeline(tmp_path / "older", num_train_timesteps=100)), "v0"
    )
    lay_out(
        cache, REPO, COMMIT, files_of(pipeline(tmp_path / "newer", num_train_timesteps=200)), "main"
    )
    assert [len(eb.load_model(REPO + name).schedule) for name in ("", "@v0", f"@{OLDER}")] == [
        200,
        100,
        100,
    ]


def test_at_the_command_line(cache: Path, tmp_path: Path) -> None:
    lay_out(cache, REPO, COMMIT, files_of(pipeline(tmp_path / "source")), "main")
    np.savez(
        tmp_path / "images.npz",
        arr_0=(np.random.default_rng(0).random((16, 8, 8, 1)) * 255).astype(np.uint8),
    )
    out = tmp_path / "run.nc"
    arguments = [
        "record",
        "--model",
        f"{REPO}@main",
        "--data",
        f"{tmp_path}/images.npz",
        "--steps",
        "2",
        "-n",
        "4",
    ]
    assert main([*arguments, "-o", str(out)]) == 0
    assert eb.load(out).provenance["run"]["model"]["name"] == "org/ddpm-tiny@0123456"


def test_prompts_and_guidance(cache: Path, tmp_path: Path) -> None:
    source = folder(tmp_path / "dit", "DiTPipeline", diffusers.DDIMScheduler(), transformer=dit(5))
    lay_out(cache, "org/dit", COMMIT, files_of(source), "main")
    model = eb.adapt("org/dit", guidance_scale=3.0)
    assert (model.guidance, model.source["repo"]) == (3.0, "org/dit")


def test_a_local_path_comes_first(cache: Path, tmp_path: Path) -> None:
    lay_out(cache, REPO, COMMIT, files_of(pipeline(tmp_path / "source")), "main")
    pipeline(tmp_path / "org" / "ddpm-tiny", num_train_timesteps=50)
    model = eb.load_model(REPO)
    assert (model.source, model.name, len(model.schedule)) == (None, "ddpm-tiny", 50)


def test_a_repository_of_2022_in_the_cache(cache: Path, tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path / "root")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "root")
    lay_out(cache, REPO, COMMIT, files_of(tmp_path / "root"), "main")
    assert "diffusion_pytorch_model.safetensors" in eb.load_model(REPO).source["files"]


def test_code_and_pickles_of_a_repository_are_left_alone(cache: Path, tmp_path: Path) -> None:
    files = files_of(pipeline(tmp_path / "source"))
    index = json.loads(files["model_index.json"])
    bad = b"raise SystemExit('remote code ran')"
    more = {
        "pipeline.py": bad,
        "unet/my_unet.py": bad,
        "scheduler/my.py": bad,
        "unet/diffusion_pytorch_model.bin": bad,
    }
    custom = index | {"_class_name": ["pipeline", "MyPipeline"], "unet": ["my_unet", "UNet2DModel"]}
    lay_out(
        cache,
        REPO,
        COMMIT,
        files | more | {"model_index.json": json.dumps(custom).encode()},
        "main",
    )
    assert sorted(eb.load_model(REPO).source["files"]) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        WEIGHTS,
    ]
    custom["unet"] = ["my_unet", "MyUNet"]
    lay_out(
        cache,
        "org/own",
        COMMIT,
        files | more | {"model_index.json": json.dumps(custom).encode()},
        "main",
    )
    with fails("networks of class MyUNet are not supported"):
        eb.load_model("org/own")


def test_a_cache_that_was_damaged(cache: Path, tmp_path: Path) -> None:
    files = files_of(pipeline(tmp_path / "source"))
    where = lay_out(cache, REPO, COMMIT, files, "main")
    blob = where / "blobs" / sha(files[WEIGHTS])
    content = bytearray(files[WEIGHTS])
    content[-5] ^= 1
    blob.write_bytes(bytes(content))
    with fails(
        r"is not what its name in the cache says \(another SHA-256\): remove it and fetch it again"
    ):
        eb.load_model(REPO)


MISSING = [
    (
        "org/elsewhere",
        (
            r"there is no org/elsewhere here or in the cache .*/hub, and HF_HUB_OFFLINE is set:"
            r" unset it"
        ),
    ),
    (f"{REPO}@v9", r"there is no org/ddpm-tiny@v9 here or in the cache"),
    (f"{REPO}@{OLDER}", rf"there is no {REPO}@fedcba98.* here or in the cache"),
    (
        "org/half",
        r"has no unet/diffusion_pytorch_model\.safetensors in the cache, and HF_HUB_OFFLINE is set",
    ),
    ("org/quarter", r"has no config\.json in the cache, and HF_HUB_OFFLINE is set"),
    ("org--x/..", "there is no model"),
    ("org/x--y", "org/x--y is no name of the hub"),
]


@pytest.mark.parametrize(("name", "message"), MISSING)
def test_what_is_not_in_the_cache(name: str, message: str, cache: Path, tmp_path: Path) -> None:
    files = files_of(pipeline(tmp_path / "source"))
    lay_out(cache, REPO, COMMIT, files, "main")
    lay_out(cache, "org/half", COMMIT, {k: v for k, v in files.items() if k != WEIGHTS}, "main")
    lay_out(cache, "org/quarter", COMMIT, {"model_index.json": files["model_index.json"]}, "main")
    with fails(message) as caught:
        eb.load_model(name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_preset_is_not_for_the_hub(cache: Path, tmp_path: Path) -> None:
    lay_out(cache, REPO, COMMIT, files_of(pipeline(tmp_path / "source")), "main")
    with fails("a preset is for checkpoints .* but org/ddpm-tiny@0123456 is none"):
        eb.load_model(REPO, preset="adm-cifar10")


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "a/b/c",
        "./a",
        "../a/b",
        "/a/b",
        "~/a",
        "a/",
        "/a",
        "a b/c",
        "a/b@",
        "runs/x.pt",
        "x/y.pkl",
        3,
        None,
    ],
)
def test_names_that_are_not_of_the_hub(name: Any) -> None:
    assert not hub.is_name(name, (".pt", ".pkl"))


@pytest.mark.parametrize(
    "name", ["google/ddpm-cifar10-32", "a/b@v1", "a/b@refs/pr/1", "a.b-c_d/e.f@0123"]
)
def test_names_that_are_of_the_hub(name: str) -> None:
    assert hub.is_name(name, (".pt", ".pkl"))


# A hub.


class Hub:
    """Repositories by name: {file: content} at one commit. gated: names that nobody may read. cut:
    how many bytes of a file are sent before the line breaks, once. asked: the requests, in
    order."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.cut: int | None = None
        self.asked: list[tuple[str, str, str | None]] = []

    def answer(self, handler: BaseHTTPRequestHandler, head: bool) -> None:
        path = handler.path.partition("?")[0]
        self.asked.append((handler.command, path, handler.headers.get("Range")))
        match = re.fullmatch(
            r"/(?:api/models/)?([\w-]+/[\w.-]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?",
            path,
        )
        repo, what, revision, name = match.groups() if match else (None, None, None, None)
        if repo not in self.repositories:
            return send(
                handler, 401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}
            )
        if repo in self.gated:
            return send(handler, 403, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo"})
        if revision not in (None, "main", COMMIT):
            return send(
                handler, 404, b'{"error": "Invalid rev"}', {"X-Error-Code": "RevisionNotFound"}
            )
        files = self.repositories[repo]
        if what in (None, "revision"):
            return send(
                handler, 200, json.dumps({"id": repo, "sha": COMMIT, "siblings": []}).encode()
            )
        if what == "tree":
            return send(
                handler, 200, json.dumps([entry(n, c) for n, c in sorted(files.items())]).encode()
            )
        if name not in files:
            return send(
                handler, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            )
        return self.file(handler, files[name], name, head)

    def file(self, handler: BaseHTTPRequestHandler, content: bytes, name: str, head: bool) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        large = name.endswith(".safetensors")
        digest = sha(content) if large else hashlib.sha1(content).hexdigest()
        fields = {
            "ETag": f'"{digest}"',
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(content)),
        }
        fields |= {"X-Linked-ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if start:
            fields["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        sent = part
        if self.cut is not None and large and not head:
            sent, self.cut = part[: self.cut], None
        send(handler, 206 if start else 200, sent, fields, head, len(part))


def entry(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it."""
    listed: dict[str, Any] = {
        "type": "file",
        "path": name,
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }
    if name.endswith(".safetensors"):
        listed["lfs"] = {"oid": sha(content), "size": len(content), "pointerSize": 130}
    return listed


def send(
    handler: BaseHTTPRequestHandler,
    status: int,
    content: bytes,
    fields: dict[str, str] | None = None,
    head: bool = False,
    length: int | None = None,
) -> None:
    handler.send_response(status)
    for key, value in {
        **(fields or {}),
        "Content-Length": str(len(content) if length is None else length),
    }.items():
        handler.send_header(key, value)
    handler.end_headers()
    if not head and handler.command != "HEAD":
        handler.wfile.write(content)
    if length is not None and len(content) < length:
        handler.close_connection = True


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, and an empty cache."""
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self, False)

        def do_HEAD(self) -> None:
            made.answer(self, True)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    yield made
    server.shutdown()
    server.server_close()


def test_a_download_is_of_one_commit_and_of_what_is_needed(served: Hub, tmp_path: Path) -> None:
    files = files_of(pipeline(tmp_path / "source"))
    extra = {"README.md": b"hello", "run.py": b"code", "vae/config.json": b"{}"}
    extra |= {
        "unet/diffusion_pytorch_model.bin": b"pickle",
        "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    }
    served.repositories[REPO] = files | extra
    model = eb.load_model(REPO)
    assert model.source["files"][WEIGHTS] == sha(files[WEIGHTS])
    fetched = {
        path for command, path, _ in served.asked if command == "GET" and "/resolve/" in path
    }
    assert all(f"/resolve/{COMMIT}/" in path for path in fetched)
    assert not [path for path in fetched for name in extra if path.endswith(name)]
    assert model.weight_hash == eb.load_model(tmp_path / "source").weight_hash
    # What is in the cache is not fetched again.
    before = len(served.asked)
    assert eb.load_model(REPO).source == model.source
    assert not [ask for ask in served.asked[before:] if ask[0] == "GET" and "/resolve/" in ask[1]]


def test_the_cache_serves_when_the_hub_is_gone(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.repositories[REPO] = files_of(pipeline(tmp_path / "source"))
    source = eb.load_model(REPO).source
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert eb.load_model(REPO).source == source


def test_a_broken_download_goes_on_where_it_broke(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    files = files_of(pipeline(tmp_path / "source"))
    served.repositories[REPO], served.cut = files, 1000
    model = eb.load_model(REPO)
    assert model.source["files"][WEIGHTS] == sha(files[WEIGHTS])
    assert "bytes=1000-" in {
        wanted for _, path, wanted in served.asked if path.endswith(".safetensors")
    }


def test_a_line_that_keeps_breaking(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def breaking(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    served.repositories[REPO] = files_of(pipeline(tmp_path / "source"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", breaking)
    with fails("cannot fetch org/ddpm-tiny from the hub: .Errno 28. No space left on device"):
        eb.load_model(REPO)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "org/nothing",
            (
                "there is no org/nothing here or on the hub: correct the name, or if it is private"
                " log in"
            ),
        ),
        (
            "org/closed",
            (
                r"org/closed is gated: accept its terms at http://.*/org/closed, then log in with"
                r" `hf auth login`"
            ),
        ),
        (
            f"{REPO}@v9",
            (
                "org/ddpm-tiny has no revision 'v9': give a branch, a tag or a commit, or leave"
                " @v9 out"
            ),
        ),
        (
            "org/bin",
            r"org/bin@0123456 has its weights in unet/diffusion_pytorch_model\.bin only, a pickle",
        ),
        (
            "org/empty",
            "org/empty@0123456 is no diffusers pipeline folder: it has no model_index.json$",
        ),
    ],
)
def test_what_the_hub_refuses(name: str, message: str, served: Hub, tmp_path: Path) -> None:
    files = files_of(pipeline(tmp_path / "source"))
    pickled = {key.replace(".safetensors", ".bin"): value for key, value in files.items()}
    served.repositories |= {
        REPO: files,
        "org/closed": files,
        "org/bin": pickled,
        "org/empty": {"README.md": b"hello"},
    }
    served.gated.add("org/closed")
    with fails(message) as caught:
        eb.load_model(name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_hub_that_is_down(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with fails(
        r"there is no org/x here or in the cache .*, and the hub cannot be reached: connect, or"
        r" give a folder"
    ):
        eb.load_model("org/x")


def test_the_library_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", ModuleType("huggingface_hub"))
    with fails("is not the library huggingface_hub"):
        eb.load_model("org/x")
