"""What the extraction of a multilingual corpus found and left out, for the user."""

from __future__ import annotations

from mtf_switch.errors import join_first
from tasks.document_split import SPLITS


def summarize(name: str, manifest: dict, min_characters: int) -> list[str]:
    """Returns lines that say what the text consists of, and what was left out.

    Args:
      name: Name of the corpus.
      manifest: What `multilingual_corpus` records about it.
      min_characters: A language with less text cannot be used.
    """
    sizes = {
        code: sum(splits[split]["characters"] for split in SPLITS)
        for code, splits in manifest["languages"].items()
    }
    enough = [code for code, size in sizes.items() if size >= min_characters]
    small = sorted(set(sizes) - set(enough), key=sizes.get, reverse=True)
    skipped = manifest["skipped"]
    unreadable, unknown = skipped["unreadable"], skipped["unknown_locales"]
    lines = [
        f"{name}: {len(enough)} languages with {min_characters:,} characters or more, "
        f"{sum(sizes[code] for code in enough):,} characters in all, from "
        f"{manifest['catalogues']:,} catalogues."
    ]
    if small:
        named = ", ".join(f"{code} {sizes[code]:,}" for code in small)
        lines.append(f"Languages with less text, which cannot be used: {named}.")
    lines.append(
        f"Left out: {skipped['untranslated']:,} texts that are not translated, "
        f"{skipped['other_script']:,} in another script, {skipped['repeats']:,} repeats."
    )
    if unreadable:
        named = join_first([f"{place} ({why})" for place, why in unreadable.items()])
        lines.append(f"{len(unreadable)} catalogues cannot be read: {named}.")
    if unknown:
        lines.append(
            f"{len(unknown)} catalogues are in no locale that CLDR knows: "
            f"{join_first(unknown)}."
        )
    return lines
