// What every kernel is bound to: the inputs of the run (indices and bit-cast reals) and the parameters of the dispatch.
// The arena, where all values live, is declared by each kernel, as scalars or as vectors of four.

@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;

// A dispatch may have more workgroups than one dimension allows: they are laid out in lines of this many.
const LINE: u32 = 65535u;

fn flat(workgroup: vec3<u32>) -> u32 {
    return workgroup.y * LINE + workgroup.x;
}
