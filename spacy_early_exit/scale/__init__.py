"""Many files, tagged by many workers: on this machine, on Ray, or on Spark.

A job cuts its input into parts (``parts.py``). A worker reads a part, tags it (``tagger.py``) and
writes one Parquet file, which is there as a whole or not at all (``table.py``). So an engine has
little to do: hand out parts, and hand them out again if a worker dies. ``job.py`` knows what is
done already, and what all of it cost.

Whoever has a dataset or DataFrame already needs none of this but ``ray.tag_batches`` or
``spark.tag_partitions``.
"""

try:
    import pyarrow  # noqa: F401
except ImportError as e:
    raise ImportError(
        "Parquet files need pyarrow: pip install 'spacy-early-exit[parquet]' (or [ray] or [spark])."
    ) from e
