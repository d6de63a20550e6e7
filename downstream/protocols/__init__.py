"""How features become predictions: nearest neighbours, linear probes, ridge, SVM, trained classifiers."""
