"""Documents in tables: what ``ctx.db`` reads and writes. Floor 2: calls the store's link, never duckdb."""
