"""The words of the world: made-up titles, creators, tags and texts, and what listeners say when they ask.

Words carry an item's style and kind and nothing else: quality and allure leave no trace in them, so text can help a
model to pool items of a kind but can never tell it which of them are good.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Style:
    """A style: its plain name, other ways to ask for it, and the words its titles and texts are made of."""

    name: str
    asked_as: tuple[str, ...]
    words: tuple[str, ...]
    moods: tuple[str, ...]


def _style(name: str, asked_as: str, words: str, moods: str) -> Style:
    return Style(name, tuple(asked_as.split("; ")), tuple(words.split()), tuple(moods.split()))


STYLES: tuple[Style, ...] = (
    _style(
        "ambient",
        "something to drift off to; soft floating sounds; calm background sound",
        "mist tide hush glow halo cloud stillness vapour horizon slow",
        "calm floating sleepy spacious",
    ),
    _style(
        "folk",
        "acoustic guitar and stories; campfire songs; something with a banjo",
        "river lantern meadow cabin willow harvest ember orchard fiddle road",
        "warm homely wistful gentle",
    ),
    _style(
        "metal",
        "heavy guitars; something really loud and dark; riffs to headbang to",
        "iron raven forge thunder wolf obsidian hammer grave storm rust",
        "furious dark heavy loud",
    ),
    _style(
        "jazz",
        "saxophone and brushes; late night bar music; swing and horns",
        "blue midnight velvet corner swing brass smoke saxophone alley quartet",
        "smoky mellow loose sly",
    ),
    _style(
        "techno",
        "four to the floor; warehouse beats; machines and a steady kick",
        "circuit strobe warehouse pulse voltage static engine concrete laser loop",
        "hypnotic driving cold mechanical",
    ),
    _style(
        "hiphop",
        "rap with good rhymes; boom bap; bars over a beat",
        "block cipher crown hustle corner rhyme vinyl concrete boulevard chain",
        "confident raw sharp streetwise",
    ),
    _style(
        "classical",
        "orchestra and piano; sweeping strings; symphonies",
        "sonata winter garden nocturne cathedral prelude marble quartet aria candle",
        "stately delicate solemn grand",
    ),
    _style(
        "pop",
        "catchy hits; something to sing along to; big choruses",
        "neon heartbeat summer mirror sugar dance telephone glitter weekend kiss",
        "bright catchy glossy playful",
    ),
    _style(
        "country",
        "pickup trucks and heartbreak; steel guitar; nashville sound",
        "dust prairie saddle whiskey highway porch rodeo creek barn sundown",
        "rugged lonesome honest easygoing",
    ),
    _style(
        "latin",
        "salsa and reggaeton; something to dance to in spanish; congas and heat",
        "fuego luna playa corazon ritmo noche bailar palma sol canela",
        "hot swaying festive sunny",
    ),
    _style(
        "soul",
        "big voices and groove; motown feeling; gospel warmth",
        "gold honey river sunday groove tender mercy silk church saxophone",
        "tender groovy yearning rich",
    ),
    _style(
        "punk",
        "three chords and shouting; fast angry guitars; garage noise",
        "riot gutter spit anarchy basement razor teeth alley siren brat",
        "bratty fast scrappy angry",
    ),
)

KIND_WORDS: dict[str, tuple[str, ...]] = {
    "track": ("song", "track", "tune"),
    "podcast": ("podcast", "episode", "show"),
    "audiobook": ("audiobook", "chapter", "book"),
}
_SYLLABLES = [
    "va",
    "lo",
    "ri",
    "mes",
    "tan",
    "ko",
    "bel",
    "nu",
    "dra",
    "si",
    "fen",
    "mar",
    "ul",
    "ti",
    "zor",
    "pa",
    "len",
    "hy",
    "qui",
    "sto",
]
_ROLES = {
    "track": ("{a}", "The {b}s", "{a} & the {b}s", "{b} {a}"),
    "podcast": ("{a} Talks", "The {b} Hour", "{b} with {a}"),
    "audiobook": ("{a} reads", "{b} Press", "{a} {b}"),
}
_TITLES = ("{a} {b}", "The {a} and the {b}", "{a} of {b}", "{m} {a}", "{a}, {m} {b}", "Under the {a}", "{b} in {m} {a}")
_TEXTS = (
    "A {m} {kind} of {a}, {b} and {c}. For fans of {style}.",
    "{style}, {m} and {n}: {a} meets {b}.",
    "{m} {style} {kind} with {a}, {b} and a little {c}.",
    "This {kind} goes from {a} to {b}; {n}, {m}, full of {c}.",
)
_ASKS = ("{x}", "play {x}", "i want {x}", "{x} please", "something like {x}", "in the mood for {x}", "can i have {x}")


def _pick(rng: np.random.Generator, words: tuple[str, ...] | list[str]) -> str:
    return words[int(rng.integers(len(words)))]


def name_of_creator(rng: np.random.Generator, style: Style, kind: str) -> str:
    """A made-up creator: an invented name and a word of the style."""
    invented = "".join(_pick(rng, _SYLLABLES) for _ in range(int(rng.integers(2, 4)))).capitalize()
    return _pick(rng, _ROLES[kind]).format(a=invented, b=_pick(rng, style.words).capitalize())


def title_of_item(rng: np.random.Generator, style: Style) -> str:
    """A made-up title out of the style's words."""
    a, b = rng.choice(len(style.words), 2, replace=False)
    return _pick(rng, _TITLES).format(
        a=style.words[a].capitalize(), b=style.words[b].capitalize(), m=_pick(rng, style.moods).capitalize()
    )


def tags_of_item(rng: np.random.Generator, style: Style, kind: str, stray: Style) -> list[str]:
    """Style, kind and a mood; one tag in ten is a stray from another style, as tags are."""
    first = stray.name if rng.random() < 0.1 else style.name
    return [first, kind, _pick(rng, style.moods)]


def text_of_item(rng: np.random.Generator, style: Style, kind: str) -> str:
    """One or two sentences about the item."""
    a, b, c = (style.words[i] for i in rng.choice(len(style.words), 3, replace=False))
    m, n = (style.moods[i] for i in rng.choice(len(style.moods), 2, replace=False))
    text = _pick(rng, _TEXTS).format(a=a, b=b, c=c, m=m, n=n, style=style.name, kind=KIND_WORDS[kind][0])
    return text[0].upper() + text[1:]


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def paraphrases() -> dict[str, tuple[str, ...]]:
    """Style or kind -> other words for it; those of styles do not contain its name."""
    kinds = {kind: tuple(f"{_article(noun)} {noun}" for noun in nouns) for kind, nouns in KIND_WORDS.items()}
    return {style.name: style.asked_as for style in STYLES} | kinds


def with_typo(rng: np.random.Generator, text: str) -> str:
    """`text` with one letter swapped, dropped or doubled."""
    at = int(rng.integers(1, max(2, len(text) - 1)))
    match int(rng.integers(3)):
        case 0:
            return text[:at] + text[at + 1 :]
        case 1:
            return text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :] if at < len(text) else text
        case _:
            return text[:at] + text[at - 1] + text[at:]


def ask(rng: np.random.Generator, style: Style | None, kind: str | None) -> str:
    """What a listener says to get a style, a kind, or both: often paraphrased, sometimes mistyped."""
    if style is None and kind is None:
        raise ValueError("ask() needs a style or a kind")
    wanted = "" if style is None else (style.name if rng.random() < 0.5 else _pick(rng, style.asked_as))
    if kind is not None:
        noun = _pick(rng, KIND_WORDS[kind])
        if style is None:
            wanted = f"{_article(noun)} {noun}"
        elif rng.random() < 0.6:
            wanted = f"{_article(style.name)} {style.name} {noun}"
        else:
            wanted = f"{wanted}, {_article(noun)} {noun}"
    text = _pick(rng, _ASKS).format(x=wanted)
    return with_typo(rng, text) if rng.random() < 0.15 else text
