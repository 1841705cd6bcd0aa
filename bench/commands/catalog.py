"""The command that says what there is to measure and to estimate with: `list`."""

from typing import Any

from bench.commands.reading import Document


def listing(what: str) -> list[Document] | Document:
    """The workloads, suites, models or chips there are, or the schema of a result file."""
    from bench import chip, model, record, workload
    from bench.measure import choice

    if what == "schema":
        return record.json_schema()
    if what == "suites":
        return [{"name": name, "summary": summary} for name, summary in choice.suites().items()]
    if what == "models":
        return [_model_row(model.find(name)) for name in model.names()]
    if what == "chips":
        return [_chip_row(chip.find(name)) for name in chip.names()]
    found = ((name, workload.find(name)) for name in workload.names())
    return [
        {
            "name": name,
            "version": kind.version,
            "scale": kind.scale,
            "parameters": ", ".join(workload.parameters(kind)),
            "summary": (kind.__doc__ or "").partition("\n")[0],
        }
        for name, kind in found
    ]


def _model_row(found: Any) -> Document:
    return {
        "name": found.name,
        "parameters": found.total_parameters,
        "active_parameters": found.active_parameters,
        "layers": found.num_hidden_layers,
        "hidden_size": found.hidden_size,
        "heads": found.num_attention_heads,
        "kv_heads": found.num_key_value_heads,
        "context": found.max_position_embeddings,
        "vocab_size": found.vocab_size,
        "source": found.source,
    }


def _chip_row(found: Any) -> Document:
    return {
        "name": found.name,
        "vendor": found.vendor,
        "bf16_flops_per_s": found.peak_flops_per_s("bfloat16"),
        "memory_bytes": found.memory_bytes,
        "memory_bytes_per_s": found.memory_bytes_per_s,
        "power_w": found.power_w,
        "driver_names": list(found.driver_names),
        "aliases": list(found.aliases),
    }
