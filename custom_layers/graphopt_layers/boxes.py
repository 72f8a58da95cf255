"""Non-maximum suppression."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt

THREADS = 512
SUPPRESS = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

struct Box { float y1, x1, y2, x2; };

template <bool CENTERS> __device__ __forceinline__ Box box_of(const float* at) {
    if constexpr (CENTERS) {
        const float w = at[2] * 0.5f, h = at[3] * 0.5f;
        return {at[1] - h, at[0] - w, at[1] + h, at[0] + w};
    }
    return {fminf(at[0], at[2]), fminf(at[1], at[3]), fmaxf(at[0], at[2]), fmaxf(at[1], at[3])};
}
__device__ __forceinline__ bool overlap(Box a, Box b, float threshold) {
    const float h = fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), w = fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1);
    if (h <= 0.0f || w <= 0.0f) return false;
    const float both = h * w, one = (a.y2 - a.y1) * (a.x2 - a.x1), two = (b.y2 - b.y1) * (b.x2 - b.x1);
    if (one <= 0.0f || two <= 0.0f) return false;
    return both / (one + two - both) > threshold;
}

// One block per (image, class): takes the best box that is left, and drops those that overlap it, `most` times.
template <bool CENTERS>
__global__ void suppress(const float* boxes, const float* scores, int* picked, int* counts, unsigned char* gone,
                         int classes, int n, int most, float iou, float least, bool filter) {
    __shared__ float best_score[16];
    __shared__ int best_at[16];
    const int pair = blockIdx.x, image = pair / classes;
    const float* score = scores + i64(pair) * n;
    const float* box = boxes + i64(image) * n * 4;
    unsigned char* dropped = gone + i64(pair) * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        dropped[i] = filter ? !(score[i] > least) : score[i] != score[i];
    __syncthreads();
    int number = 0;
    while (number < most) {
        float mine = 0;
        int at = -1;
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            if (!dropped[i] && (at < 0 || score[i] > mine)) { mine = score[i]; at = i; }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, mine, step);
            const int place = __shfl_xor_sync(0xffffffffu, at, step);
            if (place >= 0 && (at < 0 || other > mine || (other == mine && place < at))) { mine = other; at = place; }
        }
        if ((threadIdx.x & 31) == 0) { best_score[threadIdx.x >> 5] = mine; best_at[threadIdx.x >> 5] = at; }
        __syncthreads();
        mine = best_score[0], at = best_at[0];
        for (int k = 1; k < int(blockDim.x) / 32; k++)
            if (best_at[k] >= 0 && (at < 0 || best_score[k] > mine || (best_score[k] == mine && best_at[k] < at))) {
                mine = best_score[k];
                at = best_at[k];
            }
        if (at < 0) break;  // the same in every thread
        if (threadIdx.x == 0) picked[i64(pair) * most + number] = at;
        number++;
        const Box chosen = box_of<CENTERS>(box + i64(at) * 4);
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            if (i == at || (!dropped[i] && overlap(chosen, box_of<CENTERS>(box + i64(i) * 4), iou))) dropped[i] = 1;
        __syncthreads();
    }
    if (threadIdx.x == 0) counts[pair] = number;
}

// y: (number, 3), packed: image, class, box; pairs in order.
template <class I>
__global__ void gather(const int* picked, const int* counts, I* y, int* size, int pairs, int classes, int most) {
    __shared__ int before;
    const int pair = blockIdx.x;
    if (pair >= pairs) {  // no images or no classes: the size is written all the same
        if (threadIdx.x == 0) *size = 0;
        return;
    }
    if (threadIdx.x == 0) before = 0;
    __syncthreads();
    int sum = 0;
    for (int i = threadIdx.x; i < pair; i += blockDim.x) sum += counts[i];
    atomicAdd(&before, sum);
    __syncthreads();
    const int count = counts[pair];
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        I* row = y + i64(before + i) * 3;
        row[0] = pair / classes;
        row[1] = pair % classes;
        row[2] = picked[i64(pair) * most + i];
    }
    if (pair == pairs - 1 && threadIdx.x == 0) *size = before + count;
}
""",
    "suppress",
)
GATHER = graphopt.Kernel(SUPPRESS.source, "gather")


class FusedNonMaxSuppression(graphopt.Layer):
    """y[i] = (image, class, box): per image and class the best boxes that overlap no better one by more than `iou`.

    boxes: (images, n, 4), float32, corners (y1, x1, y2, x2) in any order, or with center_point_box (x, y, w, h);
    scores: (images, classes, n), float32, no NaN; y: (number, 3), int64, by image, class and falling score (of equal
    scores the first box), the number known after the run only. At most `most` a class, and, with filter, of a score
    above `least`. Source: ONNX NonMaxSuppression (opset 10, 11); torchvision.ops.nms (no filter).
    """

    most: int = 10
    iou: float = 0.5
    least: float = 0.0
    center_point_box: int = 0
    filter: bool = True
    variants = ({"filter": True}, {"filter": False})
    dtypes = ("float32",)
    portable = False
    cases = (
        {"boxes": (1, 6, 4), "scores": (1, 1, 6)},
        {"boxes": (2, 50, 4), "scores": (2, 3, 50), "most": 7},
        {"boxes": (1, 1000, 4), "scores": (1, 4, 1000), "most": 100, "iou": 0.3, "least": 0.2},
        {"boxes": (2, 40, 4), "scores": (2, 2, 40), "center_point_box": 1},
        {"boxes": (1, 60, 4), "scores": (1, 1, 60), "most": (1 << 63) - 1},
        {"boxes": (0, 6, 4), "scores": (0, 2, 6)},
        {"boxes": (2, 0, 4), "scores": (2, 2, 0)},
    )

    def body(self, op: Any, boxes: Any, scores: Any) -> Any:
        least = [[self.least]] if self.filter else []
        return op.NonMaxSuppression(
            boxes, scores, [self.most], [self.iou], *least, center_point_box=self.center_point_box
        )  # fmt: skip

    def check(self, boxes: Any, scores: Any) -> str | None:
        if boxes.rank != 3 or scores.rank != 3 or boxes.shape[2] != 4 or self.most < 1:
            return "it has no boxes of four numbers, or keeps none"
        fits = boxes.shape[0] == scores.shape[0] and boxes.shape[1] == scores.shape[2]
        return None if fits else "there is not proved to be one score a box"

    def infer(self, boxes: Any, scores: Any) -> Any:
        upper = scores.shape[0] * scores.shape[1] * graphopt.smaller(scores.shape[2], min(self.most, (1 << 31) - 1))
        return graphopt.tensor("int64", (graphopt.Size(upper, upper), 3))

    def workspace(self, boxes: Any, scores: Any, y: Any) -> int:
        pairs, n = int(scores.shape[0] * scores.shape[1]), int(scores.shape[2])
        return 4 * pairs * (min(self.most, n) + 1) + pairs * n

    def enqueue(self, boxes: Any, scores: Any, y: Any, number: Any, workspace: Any = None) -> None:
        images, classes, n = scores.shape
        pairs, most = images * classes, min(self.most, n)
        counts, picked = workspace[: 4 * pairs], workspace[4 * pairs : 4 * pairs * (most + 1)]
        gone = workspace[4 * pairs * (most + 1) :]
        arguments = (
            boxes, scores, picked, counts, gone, classes, n, most, float(self.iou), float(self.least),
            bool(self.filter),
        )  # fmt: skip
        SUPPRESS[bool(self.center_point_box)]((pairs,), (THREADS,), arguments)
        GATHER["int64"]((max(pairs, 1),), (THREADS,), (picked, counts, y, number, pairs, classes, most))

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        """Boxes on whole numbers, whose overlaps are exact; distinct scores."""
        if name == "scores":
            return (rng.permutation(int(np.prod(shape))).reshape(shape) + 0.5) / max(int(np.prod(shape)), 1)
        corner = rng.integers(0, 20, (*shape[:2], 2))
        return np.concatenate([corner, corner + rng.integers(1, 8, (*shape[:2], 2))], axis=-1)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedNonMaxSuppression]
