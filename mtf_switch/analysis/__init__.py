"""Analysis of a trained model: which token goes to which expert, and what that means.

Nothing here changes a model.
"""
