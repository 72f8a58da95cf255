"""The HTML report in a browser: it fits its window, its tables sort and search, and it needs nothing else."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.report.html import page
from graphopt.report.picture import MOST_NODES, costs_of, picture
from graphopt.testing import model

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

LAYERS = [
    {"name": f"layer_{n}", "kind": "gemm", "ms": ms, "alone_ms": ms, "nodes": [node], "sources": [node],
     "rules": [], "nbytes": 1000, "by": "metadata"}
    for n, (node, ms) in enumerate([("conv", 0.5), ("out", 1.5), ("/a/very/long/name/of/a/module" * 4, 0.25)])
]  # fmt: skip
PROFILE = {"gpu": "GPU", "launch_ms": {"median": 2.2, "p10": 2.1, "p90": 2.3}, "named": 1.0, "layers": LAYERS}


@pytest.fixture(scope="module")
def report() -> str:
    proto = model(
        "g (float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ a = Identity(x) [conv] c = Conv(a, w) b = Relu(c) [out] y = Add(b, c) }",
        weights={"w": np.ones((4, 3, 3, 3))},
    )
    found = graphopt.optimize(proto, verify="end")
    return page(found.report, "model.onnx", graph=found.graph, profile=PROFILE)


def in_browser(report: str, script: str, tmp_path: Path, width: int) -> dict:
    """What a script finds in the report, shown in a frame of this width."""
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    outer = f"""<!doctype html><body style="margin:0"><iframe id=f style="width:{width}px;height:800px;border:0"
    srcdoc="{html.escape(report, quote=True)}"></iframe><pre id=out></pre><script>
    const errors = [];
    document.getElementById("f").addEventListener("load", () => {{
      const window_ = document.getElementById("f").contentWindow, doc = window_.document;
      window_.addEventListener("error", event => errors.push(String(event.message)));
      let found;
      try {{ found = (function (window, document) {{ {script} }})(window_, doc); }} catch (error) {{ found = {{error: String(error)}}; }}
      document.getElementById("out").textContent = "@@" + JSON.stringify({{...found, errors}}) + "@@";
    }});</script>"""  # noqa: E501
    path = tmp_path / f"frame{width}.html"
    path.write_text(outer)
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=4000",
        f"--user-data-dir={tmp_path}/u",
    ]
    done = subprocess.run(
        [BROWSER, *words, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    found = re.search(r"@@(\{.*\})@@", done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_its_window(report, tmp_path, width):
    script = """
    const wide = [...document.querySelectorAll("main *")].filter(one =>
      one.getBoundingClientRect().right > window.innerWidth + 1 && !one.closest(".scroll, .picture"));
    return {inner: window.innerWidth, scroll: document.documentElement.scrollWidth, wide: wide.map(one => one.outerHTML.slice(0, 80))};
    """  # noqa: E501
    found = in_browser(report, script, tmp_path, width)
    assert found["errors"] == []
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []


def test_the_check_of_width_sees_what_is_too_wide(report, tmp_path):
    broken = report.replace("<main>", "<main><div style='width:3000px'>wide</div>")
    found = in_browser(broken, "return {scroll: document.documentElement.scrollWidth};", tmp_path, 390)
    assert found["scroll"] > 2900


def test_layers_are_sorted_and_searched(report, tmp_path):
    script = """
    const table = document.getElementById("layers"), field = document.querySelector("input[type=search]");
    const first = () => [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent);
    const before = first();
    table.tHead.rows[0].cells[0].click(); const falling = first();
    table.tHead.rows[0].cells[0].click(); const rising = first();
    field.value = "CONV"; field.dispatchEvent(new window.Event("input"));
    return {before, falling, rising, found: first(), told: document.getElementById("told").textContent};
    """
    found = in_browser(report, script, tmp_path, 1280)
    assert found["before"] == found["falling"] == ["1.5000", "0.5000", "0.2500"]
    assert found["rising"] == ["0.2500", "0.5000", "1.5000"]
    assert found["found"] == ["0.5000"]
    assert found["told"] == "1 layers, 0.5000 ms"


def test_nodes_of_the_picture_do_not_overlap_and_the_costliest_is_hottest(report, tmp_path):
    script = """
    const boxes = [...document.querySelectorAll(".graph rect")].map(one => one.getBoundingClientRect());
    const overlap = boxes.some((a, i) => boxes.some((b, j) => i < j &&
      a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
    const colour = name => window.getComputedStyle([...document.querySelectorAll(".graph g.node")]
      .find(one => one.querySelector("title").textContent.startsWith(name)).querySelector("rect")).fill;
    return {count: boxes.length, overlap, hot: colour("out"), warm: colour("conv")};
    """
    found = in_browser(report, script, tmp_path, 1280)
    assert found["count"] == 3
    assert not found["overlap"]
    assert found["hot"] != found["warm"]


def test_it_needs_nothing_else(report):
    assert not re.search(r"""(?:src|href)=["']?(?!data:)|@import|url\(|https?://""", report)


def test_what_a_model_says_cannot_become_markup():
    proto = model("g (float[2] x) => (float[2] y) { [node] t = Relu(x) y = Exp(t) }")
    proto.graph.node[0].name = proto.graph.name = "<script>alert(1)</script>"
    found = graphopt.optimize(proto, verify="none")
    text = page(found.report, "<b>.onnx", graph=found.graph, profile={**PROFILE, "gpu": "<i>"})
    assert "<script>alert" not in text
    assert "<b>" not in text.split("<h1>")[1][:40]
    assert "<i>" not in text.replace("<i ", "")


def test_large_graphs_are_not_drawn():
    lines = " ".join(f"t{n + 1} = Relu(t{n})" for n in range(MOST_NODES + 1))
    found = graphopt.optimize(
        model(f"g (float[2] t0) => (float[2] t{MOST_NODES + 1}) {{ {lines} }}"), pipeline="none", verify="none"
    )
    assert picture(found.graph) == ""


def test_the_time_of_a_layer_is_shared_by_its_nodes():
    layers = [{"ms": 3.0, "nodes": ["a", "b"]}, {"ms": 1.0, "nodes": ["b"]}, {"ms": 0.0, "nodes": []}]
    assert costs_of({"layers": layers}) == {"a": 0.375, "b": 0.625}
