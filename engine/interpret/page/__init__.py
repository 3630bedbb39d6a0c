"""The demo page: one HTML file that opens offline; see `build.render`."""
