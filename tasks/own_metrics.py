"""The metrics of the user's own labelled data: `--metric=accuracy`.

Each is a function of `targets`, a list of references for each example, and of `predictions`,
one text for each. Values are percentages; correlations are 100 times their coefficients, as in
T5. Importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Targets = Sequence[Sequence[str]]
Metric = Callable[[Targets, Sequence[str]], Mapping[str, float]]

# The types of ROUGE that T5 reports.
ROUGE_TYPES = ("rouge1", "rouge2", "rougeLsum")


def accuracy(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Computes the share of predictions that equal a reference, for labels."""
    correct = [prediction in references for references, prediction in zip(targets, predictions)]
    return {"accuracy": 100 * sum(correct) / len(correct)}


def exact_match(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Computes the share of predictions that equal a reference as SQuAD compares answers.

    Case, punctuation, articles and repeated white space do not count.
    """
    return {"exact_match": _compute_squad(targets, predictions)["em"]}


def f1(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Computes SQuAD's F1 of words: the mean over examples of the best F1 with a reference."""
    return {"f1": _compute_squad(targets, predictions)["f1"]}


def _compute_squad(targets: Targets, predictions: Sequence[str]) -> Mapping[str, float]:
    from t5.evaluation import qa_utils

    normalized = [list(map(qa_utils.normalize_squad, references)) for references in targets]
    return qa_utils.qa_metrics(normalized, list(map(qa_utils.normalize_squad, predictions)))


def macro_f1(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Computes the mean over labels of each label's F1.

    The label of an example is the reference that equals the prediction, or else the first one.
    A prediction that is no label is wrong.
    """
    from sklearn import metrics

    labels = _choose_labels(targets, predictions)
    value = metrics.f1_score(
        labels, predictions, labels=sorted(set(labels)), average="macro", zero_division=0
    )
    return {"macro_f1": 100 * value}


def matthews(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Computes Matthews's correlation of labels, which are chosen as in `macro_f1`.

    A prediction that is no label is one more.
    """
    from sklearn import metrics

    labels = _choose_labels(targets, predictions)
    return {"matthews": 100 * metrics.matthews_corrcoef(labels, list(predictions))}


def pearson(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Computes Pearson's correlation of numbers. As in T5, other predictions are -1.

    The target of an example is the reference that is nearest to the prediction. It is the first
    reference if the prediction is no number.
    """
    from scipy import stats

    return {"pearson": 100 * stats.pearsonr(*_to_numbers(targets, predictions))[0]}


def spearman(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Computes Spearman's rank correlation of numbers; see `pearson`."""
    from scipy import stats

    return {"spearman": 100 * stats.spearmanr(*_to_numbers(targets, predictions))[0]}


def rouge(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Computes ROUGE-1, -2 and -Lsum: means of the best F-measure with a reference."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(ROUGE_TYPES)
    found = [
        scorer.score_multi(list(map(break_sentences, references)), break_sentences(prediction))
        for references, prediction in zip(targets, predictions)
    ]
    return {key: 100 * sum(s[key].fmeasure for s in found) / len(found) for key in ROUGE_TYPES}


def break_sentences(text: str) -> str:
    """Puts sentences on lines of their own, as ROUGE-Lsum requires and as T5 does."""
    return text.replace(" . ", " .\n")


def bleu(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Computes sacreBLEU's corpus BLEU with international tokenization, as T5 does."""
    import sacrebleu

    most = max(map(len, targets))
    # One list for each reference; examples may have fewer of them than others.
    streams = [[refs[i] if i < len(refs) else None for refs in targets] for i in range(most)]
    value = sacrebleu.corpus_bleu(list(predictions), streams, tokenize="intl")
    return {"bleu": value.score}


def _choose_labels(targets: Targets, predictions: Sequence[str]) -> list[str]:
    """Returns the reference of each example that its prediction equals, or the first one."""
    return [
        prediction if prediction in references else references[0]
        for references, prediction in zip(targets, predictions)
    ]


def _to_numbers(
    targets: Targets, predictions: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Returns the numbers of the targets, see `pearson`, and those of the predictions."""
    return list(map(_choose_number, targets, predictions)), list(map(parse_number, predictions))


def _choose_number(references: Sequence[str], prediction: str) -> float:
    numbers = list(map(parse_number, references))
    predicted = parse_number(prediction, default=None)
    if predicted is None:
        return numbers[0]
    return min(numbers, key=lambda number: abs(number - predicted))


def parse_number(text: str, default: float | None = -1.0) -> float | None:
    """Returns the finite number in a text, or a default."""
    try:
        value = float(text)
    except ValueError:
        return default
    return value if abs(value) < float("inf") else default


METRICS: Mapping[str, Metric] = {
    metric.__name__: metric
    for metric in (
        *(accuracy, exact_match, f1, macro_f1, matthews, pearson, spearman, rouge, bleu),
    )
}
# The targets of these metrics are numbers.
OF_NUMBERS = ("pearson", "spearman")
