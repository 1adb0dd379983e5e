"""One module a table of the paper: `build(root)` reads a results folder and returns a Table."""

from collections.abc import Callable
from pathlib import Path

from analysis.table import Table
from analysis.tables import (
    agreement,
    data_types,
    fig2_lora_coverage,
    fig3_zeroshot_by_bits,
    fig4_lora_rank,
    fig6_memory,
    judged_runs,
    learning_rates,
    normality,
    table1_elo,
    table2_perplexity_by_dtype,
    table3_glue_superni_by_dtype,
    table4_mmlu_by_dtype,
    table5_mmlu_by_dataset,
    table6_vicuna_vs_chatgpt,
    table7_elo,
    table8_crows_bias,
    table9_hyperparameters,
    table10_train_on_source,
    table11_dataset_size,
    table12_pairwise,
    table13_order,
)

TABLES: dict[str, Callable[[Path], Table]] = {
    "fig2_lora_coverage": fig2_lora_coverage.build,
    "fig3_zeroshot_by_bits": fig3_zeroshot_by_bits.build,
    "fig4_lora_rank": fig4_lora_rank.build,
    "fig6_memory": fig6_memory.build,
    "table1_elo": table1_elo.build,
    "table2_perplexity_by_dtype": table2_perplexity_by_dtype.build,
    "table3_glue_superni_by_dtype": table3_glue_superni_by_dtype.build,
    "table4_mmlu_by_dtype": table4_mmlu_by_dtype.build,
    "table5_mmlu_by_dataset": table5_mmlu_by_dataset.build,
    "table6_vicuna_vs_chatgpt": table6_vicuna_vs_chatgpt.build,
    "table7_elo": table7_elo.build,
    "table8_crows_bias": table8_crows_bias.build,
    "table9_hyperparameters": table9_hyperparameters.build,
    "table10_train_on_source": table10_train_on_source.build,
    "table11_dataset_size": table11_dataset_size.build,
    "table12_pairwise": table12_pairwise.build,
    "table13_order": table13_order.build,
    "judged_runs": judged_runs.build,
    "learning_rates": learning_rates.build,
    "normality": normality.build,
    "agreement": agreement.build,
    "data_types": data_types.build,
    "data_types_by_role": data_types.by_role,
}
