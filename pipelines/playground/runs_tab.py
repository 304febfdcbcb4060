"""The tab of a run: its pictures, the least sure first, and the brush."""

from __future__ import annotations

from typing import Any

from clip_es.errors import ClipEsError
from clip_es.pipelines.exchange.worst import all_scores
from clip_es.pipelines.playground import show
from clip_es.pipelines.playground.handlers import Handlers


def run_tab(gr: Any, blocks: Any, handlers: Handlers) -> None:
    """Put the fields into the tab that is open."""
    from clip_es.pipelines.playground.app import asset

    names = handlers.view.names if handlers.view else ()
    with gr.Row():
        by = gr.Dropdown(list(all_scores()), value="expected-miou", label="Order: lowest first", elem_id="by")
        name = gr.Dropdown(
            ["all classes", *names, "undecided"], value="all classes", label="Pictures with", elem_id="with"
        )
        which = gr.Dropdown(["all", "edited", "not edited"], value="all", label="Which", elem_id="which")
    strip = gr.HTML(
        "",
        elem_classes="piece",
        elem_id="strip",
        js_on_load="""element.addEventListener("click", event => {
            const button = event.target.closest("[data-picture]");
            if (button) trigger("pick", { picture: button.dataset.picture });
        });""",
    )
    with gr.Row(elem_classes="pager"):
        back = gr.Button("Previous page", size="sm", scale=0, min_width=130, elem_id="back")
        number = gr.Number(
            1, label="Page", minimum=1, precision=0, container=False, scale=0, min_width=70, elem_id="page"
        )
        onward = gr.Button("Next page", size="sm", scale=0, min_width=130, elem_id="onward")
        again = gr.Button("Read the run again", size="sm", scale=0, min_width=170, elem_id="again")
    told = gr.HTML(elem_classes="piece", elem_id="run-told")
    mender = gr.HTML(
        "",
        html_template=asset("mender.html"),
        js_on_load=asset("mender.js"),
        elem_classes="piece",
        elem_id="mender",
    )

    def opened(event) -> Any:
        try:
            return handlers.open(str(event._data["picture"])), ""
        except ClipEsError as error:
            return gr.skip(), show.message(error)

    def saved(by: Any, name: str, which: Any, page: float, event) -> Any:
        sent = event._data
        try:
            made = handlers.save(str(sent["picture"]), str(sent["seen"]), sent["strokes"])
        except ClipEsError as error:
            text = show.message(f"Not saved; the strokes are still there. {error}")
            return gr.skip(), text, gr.skip(), gr.skip()
        return made, "", *handlers.browse(by, name, which, page)

    def reread(*values: Any) -> Any:
        if handlers.view is not None:
            handlers.view.rank()
        return handlers.browse(*values)

    for handler in (opened, saved):
        handler.__annotations__ = {"event": gr.EventData}
    fields, shown = [by, name, which, number], [strip, number]
    for changed in (by, name, which):
        changed.input(lambda by, name, which: handlers.browse(by, name, which, 1), fields[:3], shown)
    back.click(lambda by, name, which, at: handlers.browse(by, name, which, at - 1), fields, shown)
    onward.click(lambda by, name, which, at: handlers.browse(by, name, which, at + 1), fields, shown)
    number.submit(handlers.browse, fields, shown)
    again.click(reread, fields, shown)
    strip.pick(opened, None, [mender, told])
    mender.save(saved, fields, [mender, told, strip, number])
    blocks.load(handlers.browse, fields, shown)
