// Draws every chart from the data beside it, in the colours of the page, light or dark.
(() => {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = () => ({ gridcolor: colour('--line'), zerolinecolor: colour('--line'), linecolor: colour('--quiet') });
  // On a phone a title that does not fit is broken before its unit.
  const narrow = () => innerWidth < 600;
  const broken = (axis) => narrow() && axis?.title ? { title: { text: axis.title.text.replace(' (', '<br>(') } } : {};
  const themed = (layout) => ({
    ...layout,
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font: { color: colour('--ink'), family: 'system-ui, sans-serif', size: narrow() ? 11 : 12 },
    hoverlabel: { bgcolor: colour('--panel'), bordercolor: colour('--line'), font: { color: colour('--ink') }, align: 'left' },
    legend: { orientation: 'h', y: 1.02, yanchor: 'bottom' },
    margin: { l: 10, r: 10, t: 30, b: 10 },
    xaxis: { automargin: true, ...axis(), ...layout.xaxis, ...broken(layout.xaxis) },
    yaxis: { automargin: true, ...axis(), ...layout.yaxis, ...broken(layout.yaxis) },
  });
  const draw = () => {
    for (const element of document.querySelectorAll('.chart')) {
      const { data, layout } = JSON.parse(element.nextElementSibling.textContent);
      Plotly.react(element, data, themed(layout), { responsive: true, displaylogo: false, displayModeBar: false });
    }
  };
  draw();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
})();
