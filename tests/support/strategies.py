"""The strategies of parallelism that the tests go through."""

# The five of the paper's Figure 9; gin/layouts/ has a file for each.
STRATEGIES = ("data", "model", "model_data", "expert_data", "expert_model_data")
