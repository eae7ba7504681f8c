import jax
import jax.numpy as jnp

from tadjax.profiling import flops


def test_matrix_products_in_loops_and_their_gradients():
    def chain(x, weights):
        return jax.lax.scan(jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None)), x, weights)[0].sum()

    x, weights = jnp.ones((4, 8)), jnp.ones((5, 8, 8))
    one = 5 * 2 * 4 * 8 * 8
    assert flops.count(chain, x, weights) == one
    assert flops.count(jax.grad(chain), x, weights) == 3 * one  # forward, again, and with respect to x
    assert flops.count(jax.grad(chain, argnums=(0, 1)), x, weights) == 4 * one


def test_what_no_result_needs_is_left_out():
    def wasteful(x):
        unused = x @ x
        return x.sum() + 0 * jnp.size(unused)

    assert flops.count(wasteful, jnp.ones((8, 8))) == 0


def test_a_branch_counts_at_its_most_expensive():
    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert flops.count(either, jnp.ones((8, 8))) == 2 * 2 * 8**3


def test_convolutions():
    x, kernel = jnp.ones((1, 10, 4)), jnp.ones((3, 4, 6))
    dims = ("NHC", "HIO", "NHC")
    convolve = lambda x: jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=dims)  # noqa: E731
    assert flops.count(convolve, x) == 2 * 10 * 6 * 3 * 4


def test_the_gradient_of_a_strided_convolution_costs_what_it_costs():
    x, kernel = jnp.ones((1, 10, 4)), jnp.ones((3, 4, 6))
    dims = ("NHC", "HIO", "NHC")
    convolve = lambda x: jax.lax.conv_general_dilated(x, kernel, (2,), "SAME", dimension_numbers=dims)  # noqa: E731
    assert flops.count(convolve, x) == 2 * 5 * 6 * 3 * 4
    assert flops.count(lambda x: jax.vjp(convolve, x)[1](jnp.ones((1, 5, 6))), x) == 2 * 5 * 6 * 3 * 4
