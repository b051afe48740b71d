"""From run directories to tables and a page: runs -> evidence -> tables, page."""
