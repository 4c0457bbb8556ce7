"""The exact text that each task of the paper makes from the examples of tfds_examples.py."""

from __future__ import annotations

from tasks import closed_book, entailment, multiple_choice

# The tasks on TFDS data that this project adds to T5's.
ADDED_TASKS = (
    "xsum",
    *entailment.ROUNDS,
    multiple_choice.WINOGRANDE,
    multiple_choice.ARC_EASY,
    multiple_choice.ARC_CHALLENGE,
    *closed_book.SIZES,
    "c4_v220_span_corruption_no_repeats",
)

_ENTAIL = "premise: The cat sat on the mat."
# Task -> split -> (inputs, targets) of one example.
GOLDEN_TEXTS: dict[str, dict[str, tuple[str, str]]] = {
    "super_glue_boolq_v102": {
        "train": ("boolq passage: Ice is frozen. question: is ice cold", "True")
    },
    "super_glue_cb_v102": {
        "validation": (f"cb hypothesis: A cat sat. {_ENTAIL}", "entailment"),
    },
    "super_glue_copa_v102": {
        "train": (
            "copa choice1: It broke. choice2: It sang. premise: The glass fell. "
            "question: effect",
            "choice1",
        )
    },
    "super_glue_multirc_v102": {
        "validation": (
            "multirc question: What has Bob? answer: A dog paragraph: Sent 1: Bob has a dog. ",
            "True",
        )
    },
    "super_glue_record_v102": {
        "train": (
            "record query: @placeholder met Ben. entities: Ann, Ben passage: Ann met Ben. "
            "They talked",
            "Ann",
        )
    },
    "super_glue_rte_v102": {"train": (f"rte hypothesis: A cat sat. {_ENTAIL}", "entailment")},
    "super_glue_wic_v102": {
        "train": (
            "wic sentence1: The bank was steep. sentence2: The bank was closed. word: bank",
            "False",
        )
    },
    "super_glue_wsc_v102_simple_train": {
        "train": ("wsc: Mark told Pete that *he* was late .", "Pete")
    },
    "super_glue_wsc_v102_simple_eval": {
        "validation": ("wsc: Mark told Pete that *he* was late .", "Pete")
    },
    "super_glue_axb_v102": {
        "test": ("rte hypothesis: A cat sat. premise: The cat sat on the mat.", "entailment")
    },
    "super_glue_axg_v102": {
        "test": ("rte hypothesis: A cat sat. premise: The cat sat on the mat.", "entailment")
    },
    "glue_cola_v002": {"train": ("cola sentence: The cat sat.", "acceptable")},
    "glue_sst2_v002": {"train": ("sst2 sentence: a joy", "positive")},
    "glue_mrpc_v002": {
        "train": (
            "mrpc sentence1: The cat sat on the mat. sentence2: A cat sat.",
            "not_equivalent",
        )
    },
    "glue_qqp_v002": {
        "train": (
            "qqp question1: The cat sat on the mat. question2: A cat sat.",
            "not_duplicate",
        )
    },
    "glue_stsb_v002": {
        # 1.9 is rounded to the nearest fifth.
        "train": ("stsb sentence1: The cat sat on the mat. sentence2: A cat sat.", "2.0")
    },
    "glue_mnli_v002": {"train": (f"mnli hypothesis: A cat sat. {_ENTAIL}", "entailment")},
    "glue_mnli_matched_v002": {
        "validation": (f"mnli hypothesis: A cat sat. {_ENTAIL}", "entailment")
    },
    "glue_mnli_mismatched_v002": {
        "validation": (f"mnli hypothesis: A cat sat. {_ENTAIL}", "entailment")
    },
    "glue_qnli_v002": {
        "train": (
            "qnli question: The cat sat on the mat. sentence: A cat sat.",
            "entailment",
        )
    },
    "glue_rte_v002": {
        "train": ("rte sentence1: The cat sat on the mat. sentence2: A cat sat.", "entailment")
    },
    "glue_ax_v002": {"test": (f"mnli hypothesis: A cat sat. {_ENTAIL}", "entailment")},
    "dpr_v001_simple": {"train": ("wsc: Bob asked Tom if *he* can lend some money.", "Tom")},
    "squad_v010_allanswers": {
        # T5 sets punctuation apart.
        "train": (
            "question: When was the tower built ? context: The tower was built in 1889 . It is "
            "tall . ",
            "in 1889",
        )
    },
    "cnn_dailymail_v002": {
        "validation": ("summarize: A dog ran off. It came back.", "Dog returns.")
    },
    "xsum": {"validation": ("summarize: A dog ran off. It is back.", "Dog is back.")},
    "winogrande_xl": {
        "train": (
            "the cup missed the bag as the _ was wide. \\n (a) cup (b) bag",
            "cup",
        ),
        "test": ("ann thanked ivy as _ had helped. \\n (a) ann (b) ivy", "<unk>"),
    },
    "anli_r1": {
        "train": (
            "anli hypothesis: Ada wrote. premise: Ada wrote the first program.",
            "entailment",
        )
    },
    "anli_r2": {
        "test": (
            "anli hypothesis: Ada wrote. premise: Ada wrote the first program.",
            "neutral",
        )
    },
    "anli_r3": {
        "validation": (
            "anli hypothesis: Ada wrote. premise: Ada wrote the first program.",
            "contradiction",
        )
    },
    "arc_easy": {
        "train": ("which of these is a mammal? \\n (a) trout (b) bat (c) wren", "bat")
    },
    "arc_challenge": {
        "validation": ("which of these is a mammal? \\n (a) p (b) q (c) r (d) s (e) t", "t")
    },
    "natural_questions_open": {
        "train": ("nq question: who wrote book 0", "Homer"),
        "validation": ("nq question: who wrote book 2", "Homer"),
        "test": ("nq question: who sang", "Nobody"),
    },
    "web_questions_open": {
        "train": ("wq question: where is town 0?", "Spain"),
        "validation": ("wq question: where is town 2?", "Spain"),
        "test": ("wq question: where is town 0?", "Spain"),
    },
    "trivia_qa_open": {
        "train": ("trivia_qa question: Which is the highest mountain?", "Mount Everest"),
        "validation": ("trivia_qa question: Which is the highest mountain?", "Mount Everest"),
        "test": ("trivia_qa question: Which is the highest mountain?", "Mount Everest"),
    },
}


def list_texts() -> list[str]:
    """Returns all inputs and targets of GOLDEN_TEXTS, to train a vocabulary on."""
    return [
        text for splits in GOLDEN_TEXTS.values() for pair in splits.values() for text in pair
    ]
