"""The page: which fields there are, and which handler is called when one changes. All else is in the other modules."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any, get_args

from clip_es.errors import ClipEsError
from clip_es.localize.methods import METHODS
from clip_es.pipelines.playground import show
from clip_es.pipelines.playground.handlers import Fields, Handlers
from clip_es.pipelines.playground.runs_tab import run_tab
from clip_es.pipelines.playground.words import Words, said_by
from clip_es.prompts import Synonyms
from clip_es.refine.registry import REFINERS

TITLE = "clip-es playground"
_QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}


def page(handlers: Handlers, words: Words, notes: list[str]) -> Any:
    """The page as a gradio Blocks. `words`: those that the fields begin with; `notes` stand on top."""
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {TITLE}\nWhere are the labels? Masks from image-level labels with a frozen CLIP.")
        for note in notes:
            gr.HTML(show.message(note), elem_classes="piece")
        # Outside the tabs: what is in one is made when it is first opened, and would be read too late.
        kept = gr.BrowserState({}, storage_key="clip-es-playground", secret="not a secret: it stays in the browser")
        with gr.Tabs(selected="run" if handlers.view else "picture"):
            with gr.Tab("Picture", id="picture"):
                photo = _picture_tab(gr, handlers, words, kept)
            with gr.Tab("Ask", id="ask"):
                _ask_tab(gr, handlers, photo)
            with gr.Tab("Run", id="run"):
                run_tab(gr, blocks, handlers)
    return blocks


def style() -> Any:
    """Colours with enough contrast, and no font but the system's."""
    from gradio import themes

    fonts, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    theme = themes.Base(primary_hue="blue", neutral_hue="gray", font=fonts, font_mono=mono)
    return theme.set(
        body_text_color_subdued="#4b5563",
        block_info_text_color="#4b5563",
        block_label_text_color="#374151",
        block_title_text_color="#1f2937",
        input_placeholder_color="#5b6472",
        button_primary_background_fill="#1d4ed8",
        button_primary_background_fill_hover="#1e40af",
        button_primary_text_color="#ffffff",
        checkbox_background_color_selected="#1d4ed8",
        slider_color="#1d4ed8",
        body_text_color_subdued_dark="#c2c8d0",
        block_info_text_color_dark="#c2c8d0",
    )


def asset(name: str) -> str:
    """A file of the page."""
    return (files("clip_es.pipelines") / "templates" / name).read_text(encoding="utf-8")


def _picture_tab(gr: Any, handlers: Handlers, words: Words, kept: Any) -> Any:
    playground = handlers.playground
    base, config = playground.vocabulary, playground.config
    photo = gr.State("")
    moved = gr.State(False)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            file = gr.File(label="Picture", elem_id="file", height=150)
            said_of_file = gr.HTML(show.message("Drop a picture to begin."), elem_classes="piece", elem_id="told")
            labels = gr.Dropdown(
                list(base.names),
                value=[],
                multiselect=True,
                allow_custom_value=True,
                label="Labels",
                info="Choose or type what is in the picture; a new word becomes a class of its own.",
                elem_id="labels",
            )
            find = gr.Button("Find labels", size="sm", elem_id="find")
            method = gr.Dropdown(list(METHODS), value=config.method, label="Method", elem_id="method")
            refine = gr.CheckboxGroup(list(REFINERS), value=list(config.refine), label="Refiners", elem_id="refine")
            with gr.Accordion("Words", open=False, elem_id="words"):
                synonyms = gr.Radio(
                    list(get_args(Synonyms)), value=words.synonyms, label="Synonyms", elem_id="synonyms"
                )
                said = gr.Textbox(
                    "",
                    label="Words of the labels",
                    info="label: word; word. In one sentence, as a mean of sentences, or left out.",
                    lines=3,
                    elem_id="said",
                )
                templates = gr.Textbox(
                    "\n".join(words.templates or base.templates),
                    label="Sentences, one on each line",
                    elem_id="templates",
                )
                background = gr.Textbox(
                    "\n".join(base.background),
                    label="Background words, one on each line",
                    lines=4,
                    max_lines=10,
                    elem_id="background",
                )
                gr.Markdown("Words count as soon as you leave the field, or with the button below.")
            go = gr.Button("Show", variant="primary", elem_id="go")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(elem_classes="piece", elem_id="status")
            mask = gr.HTML(elem_classes="piece", elem_id="mask")
            threshold = gr.Slider(
                0,
                1,
                value=0.95,
                step=0.01,
                label="Confidence",
                info="Pixels less sure than this are undecided (255).",
                elem_id="threshold",
            )
            steps = gr.HTML(elem_classes="piece", elem_id="steps")
            with gr.Accordion("Compare methods", open=False, elem_id="compare"):
                methods = gr.CheckboxGroup(list(METHODS), value=["clip-es", "patch-text"], label="Methods")
                compare = gr.Button("Compare", size="sm", elem_id="compare-go")
                comparison = gr.HTML(elem_classes="piece", elem_id="comparison")
            with gr.Accordion("Take it along", open=False, elem_id="export"):
                command = gr.Textbox(
                    label="The command line that does the same", lines=3, interactive=False, buttons=["copy"]
                )
                pack = gr.Button("Pack picture, words, command and mask", size="sm", elem_id="pack")
                packed = gr.File(label="ZIP", interactive=False, height=70)
    fields = [photo, labels, synonyms, said, templates, background, method, refine]
    results = [status, mask, steps, command, threshold, kept]

    def looked(*values: Any) -> Any:
        *first, sure, was_moved = values
        if not first[0] or not first[1]:
            missing = "Drop a picture." if not first[0] else "Name the labels, or let CLIP find them."
            return (show.message(missing), *[gr.skip()] * 4, _kept(first))
        try:
            shown = handlers.look(Fields.of(first), sure if was_moved else None)
        except ClipEsError as error:
            return (show.message(error), *[gr.skip()] * 4, _kept(first))
        return shown.status, shown.mask, shown.steps, shown.command, shown.threshold, _kept(first)

    def sure(*values: Any) -> Any:
        *first, value = values
        try:
            return *handlers.mask(Fields.of(first), value), True
        except ClipEsError as error:
            return gr.skip(), show.message(error), gr.skip(), True

    def brought(path: str | None) -> Any:
        taken, told = handlers.upload(path)
        return (taken.key if taken else gr.skip()), told, None  # the field is free for the next one at once

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*values: Any) -> Any:
            try:
                return call(*values)
            except ClipEsError as error:
                return show.message(error)

        return inner

    def found(*values: Any) -> Any:
        try:
            return handlers.find_labels(Fields.of(values))
        except ClipEsError as error:
            return gr.skip(), show.message(error)

    def zipped(*values: Any) -> Any:
        *first, value, was_moved = values
        try:
            return handlers.export(Fields.of(first), value if was_moved else None), gr.skip()
        except ClipEsError as error:
            return gr.skip(), show.message(error)

    def spelled(chosen: list[str] | None, mode: Synonyms, text: str | None) -> str:
        return said_by(base, chosen or (), mode, text or "")

    # What is changed while a look is computed must count too, so the last change is never dropped.
    again: dict[str, Any] = {
        "fn": looked,
        "inputs": [*fields, threshold, moved],
        "outputs": results,
        "trigger_mode": "always_last",
    }
    file.upload(brought, [file], [photo, said_of_file, file]).then(**again)
    for changed in (labels, synonyms):
        changed.change(spelled, [labels, synonyms, said], said, **_QUIET).then(**again)
    find.click(found, fields, [labels, said_of_file])
    for changed in (method, refine):
        changed.input(**again)
    for changed in (said, templates, background):
        changed.blur(**again)
    go.click(**again)
    threshold.input(sure, [*fields, threshold], [mask, status, command, moved], **_QUIET)
    compare.click(
        guarded(lambda *v: handlers.compare(Fields.of(v[:-3]), v[-3], v[-2] if v[-1] else None)),
        [*fields, methods, threshold, moved],
        comparison,
    )
    pack.click(zipped, [*fields, threshold, moved], [packed, status])
    blocks = gr.context.Context.root_block
    blocks.load(lambda saved: _restored(handlers, saved), [kept], [*fields, said_of_file]).then(**again)
    return photo


def _ask_tab(gr: Any, handlers: Handlers, photo: Any) -> None:
    gr.Markdown("Ask CLIPSeg about the picture of the first tab: in words, or by an example and its mask.")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            texts = gr.Textbox("", label="Words, one prompt on each line", lines=3, elem_id="prompts")
            example = gr.File(label="Example: a picture", height=90, elem_id="example")
            example_mask = gr.File(
                label="Its mask: a PNG in which the object is not 0", height=90, elem_id="example-mask"
            )
            share = gr.Slider(0, 1, value=0, step=0.05, label="Share of text", info="With words and an example.")
            threshold = gr.Slider(0.01, 0.99, value=0.3, step=0.01, label="Probability from which a pixel is marked")
            ask = gr.Button("Ask", variant="primary", elem_id="ask-go")
        with gr.Column(scale=3, min_width=320):
            answers = gr.HTML(elem_classes="piece", elem_id="answers")
    inputs = [photo, texts, example, example_mask, share, threshold]
    ask.click(handlers.ask, inputs, answers)
    threshold.release(handlers.ask, inputs, answers, show_progress="hidden")


_NAMES = ("photo", "labels", "synonyms", "said", "templates", "background", "method", "refine")


def _kept(values: list[Any]) -> dict[str, Any]:
    """What the browser keeps for a visitor who reloads the page."""
    return dict(zip(_NAMES, values, strict=True))


def _restored(handlers: Handlers, saved: Any) -> Any:
    """The fields as the browser has kept them; those it has not, or that do not fit this server, stay."""
    import gradio as gr

    skip = gr.skip()
    if not isinstance(saved, dict) or not saved:
        return (*[skip] * len(_NAMES), skip)
    allowed = {"synonyms": get_args(Synonyms), "method": tuple(METHODS)}
    values = {name: saved.get(name, skip) for name in _NAMES}
    for name, known in allowed.items():
        if values[name] not in known:
            values[name] = skip
    if isinstance(values["refine"], list):
        values["refine"] = [name for name in values["refine"] if name in REFINERS]
    try:
        photo = handlers.playground.uploads.get(str(saved.get("photo", "")))
        told = show.message(f"{photo.name}, as before.")
    except ClipEsError as error:
        values["photo"], told = "", show.message(str(error))
    return (*(values[name] for name in _NAMES), told)
