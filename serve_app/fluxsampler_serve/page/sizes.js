// Which sizes the select offers, computed from what the model accepts.

const SHAPES = [
  ["Square", [1, 1]],
  ["Landscape", [4, 3], [3, 2], [16, 9]],
  ["Portrait", [3, 4], [2, 3], [9, 16]],
];

/**
 * Groups of [width, height] for the select: each shape at the default's area, squares also smaller and
 * larger. `limits` is {multiple_of, min_side, max_side, max_pixels}, `defaults` {width, height}.
 */
export function presets(limits, defaults) {
  const area = defaults.width * defaults.height;
  return SHAPES.map(([name, ...ratios]) => {
    const found = ratios.map(([x, y]) => rounded(Math.sqrt((area * x) / y), Math.sqrt((area * y) / x), limits));
    if (name === "Square") {
      const side = Math.sqrt(area);
      for (const share of [0.5, 0.75, 1.5, 2]) found.push(rounded(side * share, side * share, limits));
      found.push([defaults.width, defaults.height]);
    }
    const sizes = new Map(found.filter((size) => accepted(size, limits)).map((size) => [label(size), size]));
    return { name, sizes: [...sizes.values()].sort((a, b) => a[0] * a[1] - b[0] * b[1] || a[0] - b[0]) };
  }).filter((group) => group.sizes.length > 0);
}

function rounded(width, height, { multiple_of: unit, min_side: least, max_side: most }) {
  // Down rather than to the nearest, so that a shape never has more pixels than the default.
  const fit = (side) => Math.min(most, Math.max(least, Math.floor(side / unit) * unit));
  return [fit(width), fit(height)];
}

function accepted([width, height], { max_pixels: pixels }) {
  return width * height <= pixels;
}

/** How a size is named in the select: 1152 × 896. */
export function label([width, height]) {
  return `${width} × ${height}`;
}
