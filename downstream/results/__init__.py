"""From predictions to rows, files and tables: runs, metrics, leakage, alarms."""
