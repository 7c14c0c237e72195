"""A run whose manifest and output are on S3 (a real server process)."""

from __future__ import annotations

import json

from render_farm.manifest.writer import write_manifest
from render_farm.media.mp4 import probe_mp4
from render_farm.storage.open import open_store
from tests.helpers import films

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-key",
    "HF_TOKEN": "planted-hub-token",
    "RENDER_FARM_NOTIFY_WEBHOOK_SECRET": "planted-webhook-secret",
    "RENDER_FARM_NOTIFY_SMTP_PASSWORD": "planted-mail-password",
}
PLACE = "https://user:planted-password@127.0.0.1:1/place?X-Amz-Signature=planted-signature"
WITH_SECRETS = [films.job("c", image=PLACE), films.job("d", model=PLACE)]


def test_render_to_s3_and_again(s3_uri, s3_env, tmp_path):
    write_manifest(f"{s3_uri}/in/films.parquet", [films.job("a"), films.job("b", causal_block_size=5), *WITH_SECRETS])
    arguments = [f"{s3_uri}/in/films.parquet", "--output", f"{s3_uri}/films", "--workers", "1", "--device", "cpu"]
    done = films.render(*arguments, "--json", **SECRETS)
    assert done.returncode == 11, done.stderr
    report = json.loads(done.stdout)
    assert report["jobs"] == {"done": 1, "failed": 3}
    store = open_store(f"{s3_uri}/films")
    store.get_file("a/video.mp4", tmp_path / "a.mp4")
    assert probe_mp4(tmp_path / "a.mp4").num_frames == 37
    names = store.list("a")
    assert names == ["a/job.json", "a/poster.jpg", "a/video.mp4"]
    bucket, _, prefix = s3_uri.removeprefix("s3://").partition("/")
    kinds = {
        name: s3_env.client().head_object(Bucket=bucket, Key=f"{prefix}/films/{name}")["ContentType"] for name in names
    }
    assert list(kinds.values()) == ["application/json", "image/jpeg", "video/mp4"]
    assert f"_runs/{report['run_id']}/results.parquet" in store.list("_runs")
    assert f"_runs/{report['run_id']}/report.html" in store.list("_runs")
    told = done.stdout.encode() + done.stderr.encode()
    told += b"".join(store.read_bytes(key) for key in store.list() if not key.endswith("/manifest.parquet"))
    assert b"planted" not in told, "the manifest alone, which is kept as it was submitted, may hold what its rows hold"
    again = films.render(*arguments, "--json")
    assert json.loads(again.stdout)["jobs"] == {"done": 1, "failed": 3}
    assert "segment" not in again.stderr.lower().replace("segments", "")


def test_a_bucket_that_is_not_there_is_exit_code_2(s3_env, tmp_path):
    done = films.render(films.manifest(tmp_path, [films.job("a")]), "--output", "s3://no-such-bucket/films")
    assert done.returncode == 2
    assert "no-such-bucket" in done.stderr
    assert "Traceback" not in done.stderr
