"""What a person looks at: the report, figures for papers, previews."""
