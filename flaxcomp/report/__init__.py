"""Reading a run: fronts, statistics over seeds, panels, and the report as HTML, Markdown and PNG. No JAX, no Ray."""
