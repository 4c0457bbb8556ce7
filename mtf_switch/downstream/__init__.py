"""Fine-tuned models: decoded answers, the tasks' own metrics, and comparisons of models.

Training and negative log perplexity are in `runs`, not here.
"""
