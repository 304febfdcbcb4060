"""The page: which fields there are, and which handler is called when one changes. All else is in the other modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any, NamedTuple, get_args

from clip_es.errors import ClipEsError
from clip_es.localize.methods import METHODS
from clip_es.pipelines.playground import show
from clip_es.pipelines.playground.handlers import Fields, Handlers
from clip_es.pipelines.playground.runs_tab import run_tab
from clip_es.pipelines.playground.words import Words, said_by
from clip_es.prompts import Synonyms
from clip_es.refine.registry import REFINERS

TITLE = "clip-es playground"
_FIRST = "Drop a picture and name what is in it: its mask comes here, and below it the map of each label."
_NO_SECRET = "not a secret: it stays in the browser"
_QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}


class _Kept(NamedTuple):
    """What the browser keeps for a visitor who reloads the page, or whose server died."""

    photo: Any
    """Key of the picture, which the server has."""
    fields: Any
    """The fields as the visitor left them. Kept without asking the server: it may be the one that is not there."""


def page(handlers: Handlers, words: Words, notes: list[str]) -> Any:
    """The page as a gradio Blocks. `words`: those that the fields begin with; `notes` stand on top."""
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {TITLE}\nMasks from image-level labels with a frozen CLIP. Nothing leaves this machine.")
        for note in notes:
            gr.HTML(show.message(note.replace("`", "")), elem_classes="piece")
        # Outside the tabs: what is in one is made when it is first opened, and would be read too late.
        kept = _Kept(
            gr.BrowserState("", storage_key="clip-es-photo", secret=_NO_SECRET),
            gr.BrowserState({}, storage_key="clip-es-playground", secret=_NO_SECRET),
        )
        with gr.Tabs(selected="run" if handlers.view else "picture"):
            with gr.Tab("Picture", id="picture"):
                _picture_tab(gr, handlers, words, kept)
            with gr.Tab("Ask", id="ask"):
                _ask_tab(gr, handlers, kept.photo)
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


def _picture_tab(gr: Any, handlers: Handlers, words: Words, kept: _Kept) -> None:
    playground = handlers.playground
    base, config = playground.vocabulary, playground.config
    photo = kept.photo
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
            with gr.Row():
                find = gr.Button("Find labels", size="sm", min_width=120, elem_id="find")
                draw = gr.Button("Draw a scene", size="sm", min_width=120, visible=handlers.draws, elem_id="draw")
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
                    lines=2,  # in a field of one line, Enter would not begin another
                    max_lines=10,
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
            status = gr.HTML(show.message(_FIRST), elem_classes="piece", elem_id="status")
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
                methods = gr.CheckboxGroup(
                    list(METHODS), value=["clip-es", "patch-text"], label="Methods", elem_id="methods"
                )
                compare = gr.Button("Compare", size="sm", elem_id="compare-go")
                comparison = gr.HTML(elem_classes="piece", elem_id="comparison")
            with gr.Accordion("Take it along", open=False, elem_id="export"):
                command = gr.Textbox(
                    label="The command line that does the same",
                    lines=3,
                    interactive=False,
                    buttons=["copy"],
                    elem_id="command",
                )
                pack = gr.Button("Pack picture, words, command and mask", size="sm", elem_id="pack")
                packed = gr.File(label="ZIP", interactive=False, visible=False, elem_id="packed")
    fields = [photo, labels, synonyms, said, templates, background, method, refine]
    results = [status, mask, steps, command, threshold]

    def looked(*values: Any) -> Any:
        *first, sure, was_moved = values
        if not first[0] or not first[1]:
            missing = "Name what is in the picture, or let CLIP find the labels." if first[0] else _FIRST
            return show.message(missing), "", "", "", gr.skip()
        try:
            shown = handlers.look(Fields.of(first), sure if was_moved else None)
        except ClipEsError as error:
            return (show.message(error), *[gr.skip()] * 4)
        return shown.status, shown.mask, shown.steps, shown.command, shown.threshold

    def sure(*values: Any) -> Any:
        *first, value = values
        try:
            return *handlers.mask(Fields.of(first), value), True
        except ClipEsError as error:
            return gr.skip(), show.message(error), gr.skip(), True

    def brought(path: str | None) -> Any:
        taken, told = handlers.upload(path)
        return (taken.key if taken else gr.skip()), told, None  # the field is free for the next one at once

    def drawn() -> Any:
        taken, names, told = handlers.draw()
        return taken.key, names, told

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
            path = handlers.export(Fields.of(first), value if was_moved else None)
            return gr.update(value=path, visible=True), gr.skip()
        except ClipEsError as error:
            return gr.skip(), show.message(error)

    def spelled(chosen: list[str] | None, mode: Synonyms, text: str | None, saved: Any) -> str:
        # Labels that are brought back can be told of before the words that are brought back with them.
        text = text or (saved.get("said") if isinstance(saved, dict) else "")
        return said_by(base, chosen or (), mode, str(text or ""))

    # What is changed while a look is computed must count too, so the last change is never dropped.
    again: dict[str, Any] = {
        "fn": looked,
        "inputs": [*fields, threshold, moved],
        "outputs": results,
        "trigger_mode": "always_last",
    }
    file.upload(brought, [file], [photo, said_of_file, file]).then(**again)
    typed = fields[1:]
    keep: dict[str, Any] = {"fn": None, "js": _KEEP, "inputs": [kept.fields, *typed], "outputs": kept.fields}
    spell: dict[str, Any] = {"fn": spelled, "inputs": [labels, synonyms, said, kept.fields], "outputs": said, **_QUIET}
    labels.change(**keep)  # gradio tells no other event of a label that was typed
    for changed in typed[1:]:
        changed.input(**keep)
    for changed in (labels, synonyms):
        changed.change(**spell).then(**keep).then(**again)
    find.click(found, fields, [labels, said_of_file])
    draw.click(drawn, None, [photo, labels, said_of_file]).then(**again)
    method.input(lambda name, chosen: list(playground.taken(name, chosen)), [method, refine], refine, **_QUIET).then(
        **keep
    ).then(**again)
    refine.input(**again)
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
    blocks.load(partial(_restored, handlers), list(kept), [*fields, said_of_file], show_progress="hidden").then(
        fn=None, js="() => { window.clipEsIsBack = true; }"
    ).then(**again)


def _ask_tab(gr: Any, handlers: Handlers, photo: Any) -> None:
    gr.Markdown("Ask CLIPSeg about the picture of the first tab: in words, or by an example and its mask.")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            texts = gr.Textbox("", label="Words, one prompt on each line", lines=3, elem_id="prompts")
            example = gr.File(label="Example: a picture", height=140, elem_id="example")
            example_mask = gr.File(
                label="Its mask: a PNG in which the object is not 0", height=140, elem_id="example-mask"
            )
            share = gr.Slider(
                0, 1, value=0, step=0.05, label="Share of text", info="With words and an example.", elem_id="share"
            )
            threshold = gr.Slider(
                0.01,
                0.99,
                value=0.3,
                step=0.01,
                label="Probability from which a pixel is marked",
                elem_id="probability",
            )
            ask = gr.Button("Ask", variant="primary", elem_id="ask-go")
        with gr.Column(scale=3, min_width=320):
            answers = gr.HTML(show.message("What CLIPSeg finds comes here."), elem_classes="piece", elem_id="answers")
    inputs = [photo, texts, example, example_mask, share, threshold]
    ask.click(handlers.ask, inputs, answers)
    threshold.input(handlers.ask, inputs, answers, **_QUIET)


_NAMES = ("labels", "synonyms", "said", "templates", "background", "method", "refine")

_KEEP = f"""(kept, ...values) => window.clipEsIsBack
    ? Object.fromEntries({json.dumps(_NAMES)}.map((name, at) => [name, values[at]])) : kept"""
"""What is typed, as it is kept; not before what was kept has been brought back, for then the fields are new."""


def _restored(handlers: Handlers, key: Any, saved: Any) -> Any:
    """The picture and the fields as the browser has kept them; what does not fit this server stays as it is."""
    import gradio as gr

    skip = gr.skip()
    saved = saved if isinstance(saved, dict) else {}
    allowed = {"synonyms": get_args(Synonyms), "method": tuple(METHODS)}
    values = {name: skip if saved.get(name) is None else saved[name] for name in _NAMES}
    for name, known in allowed.items():
        if values[name] not in known:
            values[name] = skip
    if isinstance(values["refine"], list):
        values["refine"] = [name for name in values["refine"] if name in REFINERS]
    if not key:
        return (skip, *values.values(), skip)
    try:
        photo = handlers.playground.uploads.get(str(key))
    except ClipEsError as error:
        return ("", *values.values(), show.message(str(error)))
    return (photo.key, *values.values(), show.message(f"{photo.name}, as before."))
