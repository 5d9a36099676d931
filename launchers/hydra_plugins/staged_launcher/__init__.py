"""Hydra plugins: a grid sweeper and a launcher that runs an application in stages.

`config`, `grid_sweeper` and `local_launcher` are the plugins. Hydra executes every module of this
package whose name has no leading underscore each time it looks for plugins, and again where it was
imported before, so that its classes exist twice (hydra-core 1.3, core/plugins.py). What is imported,
pickled or caught anywhere else therefore stands in a module with an underscore, and nothing heavy is
imported at the top of the three.
"""
