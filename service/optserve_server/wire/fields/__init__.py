"""Fields of messages: tensors, names, enums, pages, chunks."""
