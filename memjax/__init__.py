"""memjax: train, run and compare memory policies for language agents."""
