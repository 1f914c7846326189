// Draws the parts that the page has

if (data.path) drawPath(data.path);
if (data.triangle) drawTriangle(data.triangle);
if (document.getElementById("reliability")) reliability(partOf("reliability"))(data.reliability, "The network that is deployed");
if (document.getElementById("plane") && !data.path) planeMap(partOf("plane"), data.plane);
if (data.history) drawHistory(data.history);
