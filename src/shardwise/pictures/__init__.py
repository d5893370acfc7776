"""Words in the plane: projections, drawings, and maps for the browser."""
