"""Whatever a check touches is put back, to the bit, also after an exception or Ctrl-C.

======================================  =============================================  ==============================
what                                    what is put back                               by
======================================  =============================================  ==============================
array                                   its contents, in place                         `preserve`
list, dict, set, deque, bytearray       its items in their order, in place             `preserve`
object                                  what stands in its attributes and slots        `preserve`
class of the user's                     the contents of what stands in it              `preserve`
generator of NumPy, Python or torch,    its state, with the children it has spawned    `preserve`, `find_generators`
seed sequence
generator in an attribute, a container, itself, where another one has taken its place  `preserve`, `find_generators`
a variable or a module
functools.lru_cache that was empty      empty again                                    `find_generators`
global generators of NumPy, Python and  their states                                   `preserve_global_random_state`
torch
array, tuple, NumPy or `math`, at a     itself, where a box or a stand-in was          `gc_hooks.tracing`
place that a traced loss can reach
cache that a traced loss has filled     a number or an array in place of each box      `gc_hooks.tracing`
======================================  =============================================  ==============================

How it is found: by one walk over objects, `object_graph.walk`. `preserve` begins it at the objects that the user hands
in, around each evaluation. `find_generators` begins it at the loss and the gradient function, once for each check, and
goes also through the variables of functions, keys, caches, proxies, iterators and modules; it copies nothing but
states. Both look at what is stored, and call no method of a user's container.

How it comes to its end: `undoing.run_all` begins a step again that Ctrl-C has broken off, and goes on after an object
that refuses. What an evaluation puts back is put back once more when the check ends.

Not put back: which warnings Python has shown already, so that it shows them again; what hooks of a torch module count
outside of the module; iterators and generator functions that have advanced, because Python cannot copy them; variables
inside functions, because they may refer to a data set; which object stands in an attribute of a class, and the shape
of an array that was resized in place, because hardly any loss changes them; objects of Python's own library and of
most `object_graph.KNOWN` libraries, because they stand for files, threads or the memory of devices.
"""
